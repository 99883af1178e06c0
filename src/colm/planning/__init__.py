"""What a step will hold and do, counted before anything is loaded.

The forward and backward of training run on tensors that have a shape and a type and no values, so
counts come from the model's own code, not from a formula for one architecture.
"""
