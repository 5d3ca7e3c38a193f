"""Lowest loss per compute, and minima at equal compute."""
