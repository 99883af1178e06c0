"""Ways of training in less memory that benchmarks compare, as options of ``colm sft``.

Those that ``colm plan --fit`` knows, and beside them what `docs/memory.md` has a card or a row for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from colm.planning.methods import (
    CHECKPOINTED,
    MEMORY_METHODS,
    NO_METHOD,
    PRUNED,
    WHOLE,
    Method,
)
from colm.training.low_rank_training import LOW_RANK_ADAM

#: What each is held against, and what plain training is.
REFERENCE = MEMORY_METHODS[0].name
#: Optimizers that take low-rank steps in the linear maps of the layers, and how those are named.
PROJECTING = ("galore_adamw", "apollo_adamw")
PROJECTED_MODULES = ["attn", "mlp"]


@dataclass(frozen=True)
class Way:
    """A way of training and, for an untrained model and a pretrained one, where its rates begin.

    Attributes:
        method: its name and options.
        from_scratch: the learning rate to try first with an untrained model.
        pretrained: the same with a pretrained one.
        rate_of: the way whose rate it has, where it is a variant of that.
        eva: whether adapters begin in directions that batches of the data show.
    """

    method: Method
    from_scratch: float = 3e-3
    pretrained: float = 2e-4
    rate_of: str | None = None
    eva: bool = False

    @property
    def selects(self) -> bool:
        """Whether it goes with selection."""
        return "candidate_ratio" not in self.method.options

    def options(self, rank: int, refresh: int) -> dict[str, Any]:
        """Return its options, none of another way's among them.

        Args:
            rank: of adapters, subspaces and projections.
            refresh: steps between new directions, where there are any.
        """
        found = {**NO_METHOD, **WHOLE, **self.method.options}
        if found["subspace_rank"] is not None:
            found |= {"subspace_rank": rank, "subspace_inner_steps": refresh}
        if found["use_peft"]:
            found |= {"lora_r": rank, "lora_alpha": 2 * rank}
        if found["optim"] == LOW_RANK_ADAM:
            said = found["optim_args"] or "subspace=top"
            ranked = "" if "wavelet" in said else f", rank={rank}, refresh={refresh}"
            found["optim_args"] = said + ranked
        if found["optim"] in PROJECTING:
            found["optim_target_modules"] = PROJECTED_MODULES
            found["optim_args"] = f"rank={rank}, update_proj_gap={refresh}, scale=0.25"
        return found


#: What those methods of `MEMORY_METHODS` have that need another rate than AdamW's beginning.
_RATES: dict[str, Any] = {
    "8-bit Adam": {"rate_of": REFERENCE},
    "low-rank Adam": {"from_scratch": 1e-2, "pretrained": 1e-3},
    "random subspaces, others frozen": {"rate_of": "random subspaces"},
    "LoRA": {"from_scratch": 1e-2, "pretrained": 1e-3},
    "QLoRA": {"rate_of": "LoRA"},
    "QLoRA, 8-bit Adam": {"rate_of": "LoRA"},
    "side block": {"from_scratch": 1e-2, "pretrained": 1e-3},
    "zeroth order": {"from_scratch": 1e-3, "pretrained": 1e-6},
}
_LORA = next(method for method in MEMORY_METHODS if method.name == "LoRA")


def _low_rank(subspace: str, **rates: Any) -> Way:
    options = {"optim": LOW_RANK_ADAM, "optim_args": f"subspace={subspace}"}
    return Way(Method(f"low-rank Adam, {subspace}", options), **rates)


#: By name, the reference first.
WAYS: Mapping[str, Way] = {
    way.method.name: way
    for way in (
        *(Way(method, **_RATES.get(method.name, {})) for method in MEMORY_METHODS),
        _low_rank("sampled", rate_of="low-rank Adam"),
        _low_rank("random", rate_of="low-rank Adam"),
        _low_rank("wavelet", from_scratch=3e-3, pretrained=2e-4),
        Way(Method("CAME", {"optim": "came"})),
        Way(Method("LAMB", {"optim": "lamb"}), from_scratch=1e-2, pretrained=1e-2),
        Way(Method("GaLore", {"optim": PROJECTING[0]}), rate_of="low-rank Adam"),
        Way(Method("APOLLO", {"optim": PROJECTING[1]}), from_scratch=1e-2, pretrained=1e-3),
        Way(Method("LOMO", {"optim": "lomo"}), from_scratch=1e-1, pretrained=1e-2),
        Way(Method("LoRA, EVA", _LORA.options), rate_of="LoRA", eva=True),
        Way(Method("pruned vocabulary", PRUNED), rate_of=REFERENCE),
        Way(Method("gradient checkpointing", CHECKPOINTED), rate_of=REFERENCE),
    )
}
