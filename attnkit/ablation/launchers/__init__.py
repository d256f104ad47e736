"""Launchers start the processes of a study, one file each; `base.py` is the contract."""
