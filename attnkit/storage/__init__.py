"""What is written to disk: the cache, a run's directory, its checkpoints and its plugins."""
