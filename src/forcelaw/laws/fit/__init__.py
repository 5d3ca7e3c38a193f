"""Fitting one law to one table, with intervals."""
