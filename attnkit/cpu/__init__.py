"""Speed-ups for CPUs only: `process` before torch is loaded, `training` while a run trains."""
