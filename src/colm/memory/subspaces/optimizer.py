"""``SubspaceOptimizer``: Adam inside random subspaces, and a new subspace after every inner loop.

At outer step k it solves approximately

    min_B f(W + B P_k) + ||B||^2 / (2 eta)

from B = 0 by ``inner_steps`` steps of Adam; then W becomes W + B P_k and P_{k+1} is drawn.  Paper:
RSO, arXiv 2502.07222. What it leaves open is an option here: how P is sampled (`Subspaces`), the
proximal term, and what becomes of Adam's moments.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import AdamW

from colm.checks import check_choice, check_whole, shown
from colm.memory.subspaces.subspaces import Subspaces

MOMENTS = ("averaged", "reset", "kept")


class SubspaceOptimizer(AdamW):
    """AdamW that trains a model inside its subspaces, and goes to new ones.

    Use it as any optimiser; ``state_dict`` carries the place in the inner loop, and the model's
    ``state_dict`` W and B, so that both together resume bit for bit. Weight decay is that of W:
    B is not decayed, and W shrinks when it is merged, by all that AdamW would have taken off in
    the inner loop.

    Args:
        subspaces: of the model.
        params: parameters or groups of them, as for ``AdamW``; all that the model trains where
            ``None``. B's among them are found.
        inner_steps: steps of an inner loop.
        proximal: eta; ``None`` for no proximal term.
        moments: of Adam for B, when P is drawn anew: ``averaged``, ``reset`` or ``kept``; see
            `next_subspace`.
        options: what ``AdamW`` takes: lr, betas, eps, weight_decay, ...

    Raises:
        ValueError: an option out of range.
    """

    def __init__(
        self,
        subspaces: Subspaces,
        params: Iterable[Any] | None = None,
        *,
        inner_steps: int = 200,
        proximal: float | None = None,
        moments: str = "averaged",
        **options: Any,
    ) -> None:
        check_inner_loop(inner_steps, proximal, moments)
        if not isinstance(subspaces, Subspaces):
            raise ValueError(f"subspaces must be a Subspaces; got {shown(subspaces)}.")
        self.subspaces = subspaces
        self.inner_steps, self.proximal, self.moments = inner_steps, proximal, moments
        if params is None:
            params = [p for p in subspaces.model.parameters() if p.requires_grad]
        super().__init__(params, **options)
        self._separate_factors()

    def _separate_factors(self) -> None:
        """Give B's groups of their own: with no decay in them, and the counters of the loop."""
        factors = {id(factor) for factor in self.subspaces.factors()}
        for group in list(self.param_groups):
            inside = [p for p in group["params"] if id(p) in factors]
            if inside:
                group["params"] = [p for p in group["params"] if id(p) not in factors]
                own = {key: value for key, value in group.items() if key != "params"}
                own |= {"params": inside, "weight_decay": 0.0}
                own |= {"decays": group["weight_decay"], "decay": 1.0}
                own |= {"outer_step": self.subspaces.outer_step, "inner_step": 0}
                self.param_groups.append(own)
        self.param_groups = [group for group in self.param_groups if group["params"]]

    @property
    def _inside(self) -> list[dict[str, Any]]:
        """The groups of B's."""
        return [group for group in self.param_groups if "inner_step" in group]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take an inner step; after the last of an inner loop, merge and go to new subspaces."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._add_proximal_gradient()
        super().step()
        for group in self._inside:
            group["inner_step"] += 1
            group["decay"] *= 1 - group["lr"] * group["decays"]
        if self._inside and self._inside[0]["inner_step"] >= self.inner_steps:
            self.next_subspace()
        return loss

    def _add_proximal_gradient(self) -> None:
        """Add B / eta, the gradient of ||B||^2 / (2 eta)."""
        if self.proximal is None:
            return
        for group in self._inside:
            for factor in group["params"]:
                if factor.grad is not None:
                    factor.grad.add_(factor, alpha=1 / self.proximal)

    def next_subspace(self) -> None:
        """Merge, draw new directions, and start an inner loop.

        Moments belong to directions that are gone. ``reset``: they start at zero. ``kept``: they
        stay as they are. ``averaged``: first moments start at zero; second ones become their mean
        over the directions, an output each: on average over P, squared gradients of B are the same
        along every direction. Steps are counted on, so that without bias correction the first
        updates are small, where those of ``reset`` are as large as can be.
        """
        inside = self._inside
        self.subspaces.merge({p: group["decay"] for group in inside for p in group["params"]})
        self.subspaces.redraw()
        for group in inside:
            group |= {"inner_step": 0, "decay": 1.0, "outer_step": self.subspaces.outer_step}
            for factor in group["params"]:
                self._move_moments(self.state[factor])

    def _move_moments(self, state: dict[str, torch.Tensor]) -> None:
        """Make the moments of a B ready for new directions."""
        if self.moments == "reset":
            for value in state.values():
                value.zero_()
        elif self.moments == "averaged" and state:
            state["exp_avg"].zero_()
            for name in ("exp_avg_sq", "max_exp_avg_sq"):
                if name in state:
                    state[name].copy_(state[name].mean(dim=1, keepdim=True).expand_as(state[name]))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load moments and the place in the inner loop, and draw its directions again."""
        super().load_state_dict(state_dict)
        if self._inside:
            self.subspaces.redraw(self._inside[0]["outer_step"])


def check_inner_loop(inner_steps: int, proximal: float | None, moments: str) -> None:
    """Refuse options of the inner loop that are out of range.

    Raises:
        ValueError: such an option.
    """
    check_whole("inner_steps", inner_steps, least=1)
    is_number = isinstance(proximal, int | float) and not isinstance(proximal, bool)
    if proximal is not None and not (is_number and 0 < proximal < math.inf):
        raise ValueError(
            f"proximal must be above 0, or None for no such term; got {shown(proximal)}."
        )
    check_choice("moments", moments, MOMENTS)
