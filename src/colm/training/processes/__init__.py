"""What the processes of a run tell each other when they select together."""
