"""Randomised subspace optimisation: train every weight matrix along a few random directions.

At outer step k a random P_k is drawn for each matrix W, W + P_k B is trained in B alone for some
inner steps, and then W becomes W + P_k B. Optimiser states are of B's size, and backward keeps x P
in place of x.  Paper: RSO, arXiv 2502.07222.
"""
