"""Scaling laws of any table of runs, without torch: forms | fit | frontier | compare | diagnose |
decide."""
