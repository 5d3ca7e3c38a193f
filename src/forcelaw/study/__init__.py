"""Launching: workers that claim runs from the run directory, wherever they are started."""
