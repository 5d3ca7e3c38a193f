"""Can this table carry this law?"""
