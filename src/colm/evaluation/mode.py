"""Evaluation mode for the length of a block, and training mode afterwards as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch dropout and gradients off; put every module's mode back, also after an exception.

    Args:
        model: Any module; its parts may be in different modes.

    Yields:
        Nothing.

    Example:
        >>> model = nn.Dropout()
        >>> with evaluation_mode(model):
        ...     model.training, torch.is_grad_enabled()
        (False, False)
        >>> model.training
        True
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        # .train() first: DoRA drops there what it cached for evaluation. Then the exceptions.
        model.train(modes[0][1])
        for module, mode in modes:
            module.training = mode
