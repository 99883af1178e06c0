"""Gradient features: a model and a batch in, one row an example out. Knows no trainer.

`value_gradients` are those of V and its neighbors in the last layer, `block_gradients` those of
two whole blocks; `example_observer` takes either from one forward, with losses and hidden states.
"""
