"""Checkpoints: what selection adds to them, when they are complete, and resuming from them."""
