"""What helps on a CPU alone: `process` before torch is loaded, `training` while a run trains."""
