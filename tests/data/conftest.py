from shared_data import ROOT

# whole data sets are an extra: every assertion about them is made on tests/data_files as well
collect_ignore = [] if ROOT.exists() else ["test_whole_data_sets.py"]
