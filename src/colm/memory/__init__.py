"""Training in less memory: each method trains the same model in another way."""
