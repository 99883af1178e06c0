"""What a command does, as functions that a script can call: train, choose, compare, evaluate."""
