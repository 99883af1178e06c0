"""The log of a zeroth-order run, and a run made again from it.

A step is a few numbers: its slopes and learning rates. With the seed and the first weights they
give every later weight, so that a log of kilobytes is a checkpoint of any model.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from colm.checks import shown
from colm.memory.zeroth_order_optimizer import ZerothOrderOptimizer
from colm.memory.zeroth_order_options import TakenStep

_FORMAT = "colm zeroth order 1"


def log_of(optimizer: ZerothOrderOptimizer) -> dict[str, Any]:
    """Return all that a run was, as JSON has it, but the weights that it began with."""
    return {
        "format": _FORMAT,
        "options": asdict(optimizer.options),
        "groups": [
            {
                "weights": [optimizer.names[id(weight)] for weight in group["params"]],
                "weight_decay": group["weight_decay"],
            }
            for group in optimizer.param_groups
        ],
        "steps": [list(step) for step in optimizer.steps],
    }


def replay_log(model: nn.Module, log: Mapping[str, Any]) -> ZerothOrderOptimizer:
    """Take the steps of a log again; no data is needed, and no loss is computed.

    The weights are the same to the bit on a machine of the same kind: directions are drawn on the
    device of the weights.

    Args:
        model: with the weights that the run began with, changed in place.
        log: what `log_of` returned, or a file of it read as JSON.

    Returns:
        The optimiser, as it was after the last step, to go on with.

    Raises:
        ValueError: it is no such log, or of another model.

    Example:
        >>> import copy, json, torch
        >>> model = nn.Linear(3, 1)
        >>> first = copy.deepcopy(model)
        >>> optimizer = ZerothOrderOptimizer(model, lr=1e-2)
        >>> for _ in range(5):
        ...     loss = optimizer.step(lambda: model(torch.eye(3)).square().sum())
        >>> written = json.dumps(log_of(optimizer))
        >>> again = replay_log(first, json.loads(written))
        >>> all(map(torch.equal, first.parameters(), model.parameters()))
        True
    """
    if log.get("format") != _FORMAT:
        raise ValueError(f"the log must have format {_FORMAT!r}; got {shown(log.get('format'))}.")
    weights = dict(model.named_parameters())
    missing = [name for group in log["groups"] for name in group["weights"] if name not in weights]
    if missing:
        raise ValueError(f"the log is of another model: this one has no {missing[0]}.")
    groups = [
        {
            "params": [weights[name] for name in group["weights"]],
            "weight_decay": group["weight_decay"],
        }
        for group in log["groups"]
    ]
    optimizer = ZerothOrderOptimizer(model, groups, **log["options"])
    for step in map(TakenStep.of, log["steps"]):
        optimizer.take(step)
    if optimizer.steps:
        for group, rate in zip(optimizer.param_groups, optimizer.steps[-1].rates, strict=True):
            group["lr"] = rate
    return optimizer
