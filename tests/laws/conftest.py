from shared_data import ROOT

# a published table whose licence nobody states: what it asserts of the code is asserted of made
# tables in test_fit.py, test_recovery.py and test_diagnose.py as well
collect_ignore = [] if (ROOT / "chinchilla_epoch245.csv").exists() else ["test_chinchilla.py"]
