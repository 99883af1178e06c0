"""Methods of training in less memory, each as options of a run that has none of the others."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from colm.runs.arguments import SFTArguments
from colm.training.low_rank_training import LOW_RANK_ADAM
from colm.training.optimizers import ZEROTH_ORDER
from colm.training.options.optimizer_arguments import STANDS_IN

#: What a run says that trains all weights with AdamW, and saves nothing.
NO_METHOD: Mapping[str, Any] = {
    "optim": STANDS_IN,
    "optim_args": None,
    "optim_target_modules": None,
    "use_peft": False,
    "load_in_4bit": False,
    "load_in_8bit": False,
    "subspace_rank": None,
    "side_block": None,
    "prune_vocabulary": False,
}
CHECKPOINTED = {"activation_checkpointing": True, "gradient_checkpointing": True}
WHOLE = dict.fromkeys(CHECKPOINTED, False)
PRUNED = {"prune_vocabulary": True}
_LORA = {"use_peft": True, "lora_target_modules": ["all-linear"]}
_QLORA = {**_LORA, "load_in_4bit": True}
_EIGHT_BITS = {"optim": "adamw_bnb_8bit"}
#: Numbers of a method that a recipe may have set already.
_KEPT = ("subspace_rank", "side_block", "lora_target_modules")


@dataclass(frozen=True)
class Method:
    """A way of training.

    Attributes:
        name: what it is called.
        options: beside those of ``NO_METHOD``.
        has_activations: whether it saves for a backward what checkpointing would compute again.
        has_rows: whether it goes with a pruned vocabulary.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    has_activations: bool = True
    has_rows: bool = True

    def options_for(self, own: SFTArguments) -> dict[str, Any]:
        """Return all options, those numbers as a run has them that it has set already."""
        said = {**vars(own.model), **vars(own.training)}
        found = {**NO_METHOD, **self.options}
        kept = [name for name in _KEPT if name in self.options and said[name] is not None]
        if said["optim"] == found["optim"]:
            kept += ["optim_args", "optim_target_modules"]
        return found | {name: said[name] for name in kept}


MEMORY_METHODS = (
    Method("AdamW, all weights"),
    Method("8-bit Adam", _EIGHT_BITS),
    Method("Adafactor", {"optim": "adafactor"}),
    Method("low-rank Adam", {"optim": LOW_RANK_ADAM}),
    Method("random subspaces", {"subspace_rank": 64}),
    Method("random subspaces, others frozen", {"subspace_rank": 64, "subspace_others": ["none"]}),
    Method("LoRA", _LORA),
    Method("QLoRA", _QLORA),
    Method("QLoRA, 8-bit Adam", {**_QLORA, **_EIGHT_BITS}),
    Method("side block", {"side_block": 8}, has_activations=False, has_rows=False),
    Method(
        "zeroth order",
        {"optim": ZEROTH_ORDER, "candidate_ratio": 1.0},
        has_activations=False,
        has_rows=False,
    ),
)
