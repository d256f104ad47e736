"""What starts the processes of a study, one file a launcher; `base.py` is the contract."""
