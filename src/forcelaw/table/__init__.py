"""Tables of runs: run directories, committed evidence and foreign files, under one list of column
names."""
