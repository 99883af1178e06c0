"""The trainers, and what a step of theirs is made of.

`coreset`, `gradients` and `memory`, the floors below, import only PyTorch and NumPy.
"""
