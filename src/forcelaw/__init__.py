"""forcelaw: a laboratory for the scaling laws of neural force fields.

Importing this package imports neither torch nor numpy, so that ``forcelaw --help`` is instant.
"""

__version__ = "0.1.0"
