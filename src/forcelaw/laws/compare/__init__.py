"""Do two architectures differ, in factor or exponent?"""
