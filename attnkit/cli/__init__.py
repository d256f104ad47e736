"""The command line; start at main.py."""
