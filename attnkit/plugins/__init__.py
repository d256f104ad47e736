"""The plugins of a run: which code it was made with, and whether that code may run here."""
