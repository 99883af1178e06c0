"""What the frozen layers of a model with a side block put out, from the look to the training step.

They do not change, and training needs of them what the look has seen already: so an example carries
it along, from where it is looked at to the forward that trains on it, which then runs the last
layer alone. Padding is left behind on the way, as micro-batches are padded otherwise than chunks of
a look. Symbols: k outputs that the block reads, t tokens of an example, d hidden size.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from colm.gradients.batch import drop_labels, one_example_a_row
from colm.gradients.decoder import base_model, text_config
from colm.gradients.label_loss import DecoderRun
from colm.gradients.patching import evaluation_mode
from colm.memory.side_block import SideBlock, side_block_of
from colm.training.example import TRUNK_KEY, Example, token_count, whole_numbers
from colm.training.step.chunks import TokenLimit

if TYPE_CHECKING:
    from colm.training.step.look import ModelAccess

Looked = TypeVar("Looked")


def reused_block(model: nn.Module, args: Any) -> SideBlock | None:
    """Return the side block of a model whose trunk's outputs are reused, ``None`` for any other.

    A loss that balances experts is made of what the routers of all layers say, so those must run.
    """
    balances = getattr(text_config(base_model(model)), "output_router_logits", False)
    return side_block_of(model) if args.side_block_reuse and not balances else None


def look_and_keep(
    block: SideBlock | None, batch: Mapping[str, Any], look: Callable[[], Looked]
) -> tuple[Looked, list[Tensor]]:
    """Look at a batch, and return what was seen, and ``[k, t, d]`` of each of its examples.

    Args:
        block: whose trunk's outputs are reused; nothing is kept where ``None``.
        batch: padded or padding-free.
        look: runs the model on it, first of all once as a whole.
    """
    if block is None:
        return look(), []
    with block.trunk.recording() as forwards:
        seen = look()
    return seen, _by_example(forwards[0], batch) if block.trunk.can_be_given else []


def _by_example(outputs: list[Tensor], batch: Mapping[str, Any]) -> list[Tensor]:
    """Take k outputs ``[n, t, d]`` apart, out of the list; none where no mask tells padding."""
    rows = one_example_a_row(batch)
    mask = rows.get("attention_mask")
    mask = torch.ones_like(rows["input_ids"]) if mask is None else mask
    if mask.ndim != 2:
        return []
    own = mask.bool()
    lengths = own.sum(1).tolist()
    parts = []
    while outputs:
        # One after the other, so that what has padding is let go of on the way.
        parts.append(outputs.pop(0)[own].split(lengths))
    # Copies, so that each can be let go of by itself: most are not kept.
    return [torch.stack(of_example) for of_example in zip(*parts, strict=True)]


def with_trunk(
    examples: Sequence[Example], access: "ModelAccess", args: Any, limit: TokenLimit
) -> list[Example]:
    """Return examples each with what the trunk puts out for it, which is run for those without.

    Args:
        examples: with or without it, under ``TRUNK_KEY``.
        access: the model, the collator and where they live.
        args: the options.
        limit: most tokens of a forward pass.
    """
    done, model = list(examples), access.model()
    block = reused_block(model, args)
    missing = [at for at, each in enumerate(examples) if TRUNK_KEY not in each]
    lengths = [token_count(examples[at]) for at in missing]

    def run(chunk: Sequence[int]) -> list[Tensor]:
        batch = access.prepare(access.collate([examples[missing[index]] for index in chunk]))
        inputs = drop_labels(one_example_a_row(batch))
        return look_and_keep(block, batch, lambda: DecoderRun(model, inputs))[1]

    with access.autocast(), evaluation_mode(model), torch.no_grad():
        for chunk, found in limit.run(limit.chunks(lengths), lengths, run):
            for index, outputs in zip(chunk, found, strict=False):
                done[missing[index]] = {**examples[missing[index]], TRUNK_KEY: outputs}
    return done


def carry(batches: Sequence[Any], parts: Sequence[Sequence[Example]]) -> None:
    """Let micro-batches carry what the trunk put out, where it is known of all their examples.

    Args:
        batches: collated; each gets a list of ``[k, t, d]`` under ``TRUNK_KEY``.
        parts: the examples of each.
    """
    for batch, part in zip(batches, parts, strict=True):
        if all(TRUNK_KEY in each for each in part) and _has_tokens_of(batch, part):
            batch[TRUNK_KEY] = [each[TRUNK_KEY] for each in part]


def placed(outputs: Sequence[Tensor], batch: Mapping[str, Any]) -> list[Tensor]:
    """Return k outputs ``[rows, t, d]`` of a micro-batch, zero at its padding.

    Args:
        outputs: ``[k, t, d]`` of its examples, from `carry`.
        batch: the micro-batch.
    """
    shape = batch["input_ids"].shape
    joined = torch.cat(list(outputs), dim=1)
    own = _own_tokens(batch).flatten().nonzero().squeeze(1).to(joined.device)
    flat = joined.new_zeros((len(joined), shape.numel(), joined.shape[-1]))
    return list(flat.index_copy_(1, own, joined).unflatten(1, shape).unbind())


def _has_tokens_of(batch: Any, part: Sequence[Example]) -> bool:
    """Whether what is no padding in a batch is the tokens of its examples, one after the other."""
    own = _own_tokens(batch)
    if own.shape != batch["input_ids"].shape:
        return False
    tokens = [token for each in part for token in whole_numbers(each["input_ids"])]
    found: list[int] = batch["input_ids"][own].tolist()
    return found == tokens


def _own_tokens(batch: Mapping[str, Any]) -> Tensor:
    """Where a batch has tokens, and no padding."""
    mask = batch["attention_mask"] if "attention_mask" in batch else None  # noqa: SIM401
    return torch.ones_like(batch["input_ids"]).bool() if mask is None else mask.bool()
