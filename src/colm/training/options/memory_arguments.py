"""The options of training in less memory that change the model, beside random subspaces.

A field each turns a method on; the others say how. Methods of the optimizer are named by ``optim``.
"""

from dataclasses import dataclass
from typing import Any

from colm.checks import check_flags, check_number
from colm.training.options.selection_arguments import option


@dataclass
class MemoryArguments:
    """The options of training in less memory.  Papers: see each method's module."""

    side_block: int | None = option(
        None,
        "Freezes the model and trains a small block beside its layers, so many times narrower than "
        "they are, with no gradient through any layer but the last. Off unless set; needs a model "
        "without adapters, and turns checkpointing of activations off: there is nothing to "
        "compute again.",
    )
    side_block_every: int = option(
        1,
        "The side block reads the output of every such layer, counted from the last that it can. "
        "Higher takes less memory: what is kept of a token is the outputs that are read.",
    )
    side_block_reuse: bool = option(
        True,
        "Whether training with a side block takes over what the frozen layers put out when "
        "candidates were looked at, and does not run them again. What is read of all candidates is "
        "then held until the choice, of those kept until the step is over.",
    )
    prune_vocabulary: bool = option(
        False,
        "Trains with embeddings of the tokens that training and held-out data use, and no others: "
        "neither weights nor gradients nor moments of the rest. A head that shares the embeddings' "
        "weight, or is trained, is cut too; `colm/missing_mass` is then what the softmax misses.",
    )

    def __post_init__(self) -> None:
        """Check each option, and settle what a side block does without.

        Raises:
            ValueError: one line that names the option, its value and the choices.
        """
        check_number("side_block_every", self.side_block_every, least=1, whole=True)
        check_flags(side_block_reuse=self.side_block_reuse, prune_vocabulary=self.prune_vocabulary)
        if self.side_block is not None:
            check_number("side_block", self.side_block, least=1, whole=True)
            rank = self.subspace_rank  # type: ignore[attr-defined]
            if rank is not None:
                raise ValueError(
                    f"side_block={self.side_block} freezes the layers that subspace_rank={rank} "
                    "trains: set one of them."
                )
            if self.prune_vocabulary:
                raise ValueError(
                    f"side_block={self.side_block} freezes the embeddings whose rows "
                    "prune_vocabulary=True cuts: set one of them."
                )
            self.activation_checkpointing = self.gradient_checkpointing = False
        super().__post_init__()  # type: ignore[misc]


#: The options of each method, the first of which turns it on.
_BY_METHOD = (("side_block", "side_block_every", "side_block_reuse"), ("prune_vocabulary",))
#: What turns each on.
MEMORY_SWITCHES = tuple(names[0] for names in _BY_METHOD)


def memory_options(args: Any) -> dict[str, Any]:
    """Return the options of the methods that are on, by name."""
    on = [names for names in _BY_METHOD if getattr(args, names[0])]
    return {name: getattr(args, name) for names in on for name in names}
