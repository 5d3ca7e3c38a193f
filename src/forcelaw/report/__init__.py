"""Reports: one self-contained HTML page, figures for a paper and tables, from a study or a table of
runs. No torch."""
