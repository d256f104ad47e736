"""The machine: its devices, the settings of this process, and what is faster on a CPU only."""
