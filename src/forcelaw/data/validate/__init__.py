"""Can this data be trained on?"""
