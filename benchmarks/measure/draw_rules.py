"""Which rule of draws that go by training losses is best?

``candidate_sampling="adaptive"`` with another rule in the place of its own, on the same rounds of
losses, with the same half of the draws even over sources:

- ``fall``: colm's own: the fall of a source's loss by the logarithm of examples seen.
- ``loss``: the loss itself, a running mean over rounds.
- ``power_law``: what one more example would take off the loss by a power law fitted to it, times
  the root of the source's share so far.  Paper: after Jiang et al. 2024, arXiv 2410.11820 (ADO),
  whose credit assignment the last factor is.

Everything else is that of ``python -m benchmarks quality --arms "adaptive, all n"``, options
included; ``--rules`` and ``--seeds`` say what to run. Results are in ``results/draw_rules``; the
name of a file begins with its rule.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.measure import quality
from benchmarks.record import RESULTS, machine
from colm.training.step.adaptive import LEAST_ROUNDS, ROUND_DECAY, LossTrend

ARM = "adaptive, all n"
#: Candidates for the loss that no training removes, as shares of the least loss so far.
FLOORS = torch.linspace(0, 0.99, 34, dtype=torch.float64)
#: ADO's exponent of the share so far.
CREDIT = 0.5


def by_loss(rounds: Tensor) -> Tensor:
    """Weigh sources by the running mean of their loss.

    Args:
        rounds: ``[rounds, 3, Q]`` examples seen, sum of losses, label tokens.

    Returns:
        ``[Q]`` weights, not negative.
    """
    _, losses, tokens = rounds.unbind(1)
    ages = torch.arange(len(rounds) - 1, -1, -1, dtype=torch.float64)[:, None]
    decayed = ROUND_DECAY**ages
    return (decayed * losses).sum(0) / (decayed * tokens).sum(0).clamp(min=1)


def by_power_law(rounds: Tensor) -> Tensor:
    """Weigh sources by what an example more takes off a power law, and by the credit for shares.

    Args:
        rounds: as in `by_loss`.

    Returns:
        ``[Q]`` weights, not negative.
    """
    seen, losses, tokens = rounds.unbind(1)
    gains = torch.stack(
        [
            fall_of_power_law(seen[told, source], losses[told, source] / tokens[told, source])
            for source, told in enumerate((tokens > 0).T)
        ]
    )
    share = seen[-1] / seen[-1].sum()
    return gains * share**CREDIT


def fall_of_power_law(seen: Tensor, loss: Tensor) -> Tensor:
    """Fit ``loss = floor + scale * seen ** -exponent``; return its fall by one more example.

    For each candidate floor a line is fitted through the logarithms; the one of least squares wins.

    Args:
        seen: ``[rounds]`` examples seen, ascending.
        loss: ``[rounds]``, positive.

    Returns:
        ``[]``, 0 where the loss rises or too little is known.
    """
    if len(seen) < LEAST_ROUNDS:
        return torch.zeros((), dtype=torch.float64)
    best, fall = torch.inf, torch.zeros((), dtype=torch.float64)
    x = seen.clamp(min=1).log()
    design = torch.stack([torch.ones_like(x), x], 1)
    for floor in FLOORS * loss.min():
        line = torch.linalg.lstsq(design, (loss - floor).log()[:, None]).solution[:, 0]
        fitted = (design @ line).exp()
        error = float(((fitted + floor - loss) ** 2).sum())
        if error < best:
            best, fall = error, (-line[1] * fitted[-1] / seen[-1].clamp(min=1)).clamp(min=0)
    return fall


RULES: dict[str, Callable[[Tensor], Tensor] | None] = {
    "fall": None,
    "loss": by_loss,
    "power_law": by_power_law,
}


def told_by(rule: Callable[[Tensor], Tensor]) -> Callable[[LossTrend], Tensor]:
    """Return what stands in for a trend's falls: the rule's weights, NaN before it knows enough."""

    def weights(trend: LossTrend) -> Tensor:
        rounds = trend._so_far()
        enough = len(rounds) >= LEAST_ROUNDS
        return rule(rounds) if enough else torch.full_like(trend._seen, torch.nan)

    return weights


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, rule by rule."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], add_help=False, allow_abbrev=False
    )
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    chosen, rest = parser.parse_known_args(arguments)
    options = quality.parse(rest)
    bench: quality.QualityBench | None = None
    for seed in options.seeds:
        for name in chosen.rules:
            folder = RESULTS / "draw_rules" / quality.label(options)
            path = folder / f"{name.replace('_', '-')}-seed{seed}.json"
            if path.exists():
                quality.check_same(path, quality.shared_settings(options))
                continue
            bench = bench or quality.QualityBench(options)
            bench.benchmark = "draw_rules"
            started = time.perf_counter()
            rule = RULES[name]
            falls = LossTrend.falls if rule is None else told_by(rule)
            with patch.object(LossTrend, "falls", falls):
                summary, asked = bench.run(ARM, seed, path)
            seconds = time.perf_counter() - started
            print(f"{name}, seed {seed}: {summary}, in {seconds:.0f} s", flush=True)
            if asked:
                raise SystemExit(1)
    print(f"results are in {RESULTS / 'draw_rules'}, measured on {machine()}")


if __name__ == "__main__":
    main()
