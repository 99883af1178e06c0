"""Programs that a model writes, run as if they were hostile."""
