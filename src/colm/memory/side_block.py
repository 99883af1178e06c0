"""A side block: the one part of a model that is trained, beside a decoder that stays as it is.

It reads what the decoder's layers before the last put out, and adds to what enters the last one.
Token by token, with h_1 ... h_k what it reads, the last of which the last layer would take,

    u_i = LayerNorm(A_i h_i),   g = u_k,   rho_i = sum_j relu(cos(u_i, u_j)),
    a_i = relu(w . (u_i * g)) / rho_i,   a = a / sum_i a_i,   i and j below k,
    x = LayerNorm(C relu(sum_i a_i u_i + g)) + (1 + gamma) h_k,

so an output counts for less where others say the same. A gradient reaches the block through the
last layer, the norm and the head; nothing is kept for backward of the layers before.
Paper: Diao et al. 2024, "SHERL" (arXiv 2407.07523).  Deviates: the gate is 1 + gamma with gamma 0
at first, where the paper has tanh(gamma / 0.1), and the last LayerNorm begins at a scale of 0, so
that x is h_k at first and training starts from the pretrained model.

Symbols: L layers, k outputs read of d dimensions each, f the reduction factor, t tokens.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from colm.checks import check_whole, shown
from colm.gradients.decoder import base_model, class_name, find_decoder, find_layers, text_config
from colm.gradients.patching import HALF_PRECISION
from colm.memory.trunk import Trunk
from colm.randomness import keyed_generator

#: Under which name a model has its side block.
NAME = "side_block"


class SideBlock(nn.Module):
    """Narrows what it reads of a trunk, mixes it token by token, and widens it again.

    Where the model is in half precision the block's weights are float32, as small updates would be
    lost otherwise, and its products are of the model's type. Call ``detach`` to have the plain
    model back. Made by `attach_side_block`.

    Args:
        trunk: what it reads.
        width: d.
        reduction: f; it works with d / f dimensions, rounded down, at least one.
        seed: of its weights, beside their names.
        like: a weight of the model, whose device and type the block goes by.

    Attributes:
        trunk: the layers that it reads.
        width: d.
        reduction: f.
        gate: gamma.
    """

    def __init__(self, trunk: Trunk, width: int, reduction: int, seed: int, like: Tensor) -> None:
        super().__init__()
        self.trunk, self.width, self.reduction = trunk, width, reduction
        narrow = max(1, width // reduction)
        # On the meta device nothing is drawn from the global generator.
        with torch.device("meta"):
            self.down = nn.ModuleList(_NormedMap(width, narrow) for _ in trunk.read)
            self.weigh = nn.Linear(narrow, 1, bias=False)
            self.up = _NormedMap(narrow, width)
            self.gate = nn.Parameter(torch.empty(()))
        dtype = torch.float32 if like.dtype in HALF_PRECISION else like.dtype
        self.to_empty(device=like.device).to(dtype)
        self._begin(seed)

    @torch.no_grad()
    def _begin(self, seed: int) -> None:
        """Draw the matrices; norms are plain ones, but for the last, and all else is 0."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                drawn = torch.empty(parameter.shape, dtype=torch.float64)
                drawn.normal_(generator=keyed_generator(seed, NAME, name))
                parameter.copy_(drawn / math.sqrt(parameter.shape[1]))
            else:
                parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
        self.up.norm.weight.zero_()

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return x ``[..., d]``, what enters the last layer.

        Args:
            outputs: k of ``[..., d]``, in the order of the layers; the last is h_k.
        """
        last = outputs[-1]
        *others, guide = (down(output) for down, output in zip(self.down, outputs, strict=True))
        mixed = self._mix(torch.stack(others), guide)
        added = self.up(functional.relu(mixed + guide).to(last.dtype)) + self.gate * last
        joined: Tensor = last + added.to(last.dtype)
        return joined

    def _mix(self, others: Tensor, guide: Tensor) -> Tensor:
        """Return sum_i a_i u_i ``[..., d / f]`` of u ``[k - 1, ..., d / f]``, by the guide."""
        with torch.autocast(guide.device.type, enabled=False):
            directions = functional.normalize(others, dim=-1)
            cosines = torch.einsum("i...d,j...d->ij...", directions, directions)
            # Each is as redundant as itself, also one that is zero and has no direction.
            redundancy = cosines.relu().sum(1).clamp(min=1)
            share = functional.linear(others * guide, self.weigh.weight).squeeze(-1).relu()
            share = share / redundancy
            share = share / share.sum(0).clamp(min=torch.finfo(share.dtype).tiny)
            return (share.unsqueeze(-1) * others).sum(0)

    def train(self, mode: bool = True) -> "SideBlock":
        """Set the mode of the block; the decoder stays in evaluation mode.

        It is frozen, and without its dropout what a look saw of it is what training would see.
        """
        super().train(mode)
        self.trunk.decoder.eval()
        return self

    def detach(self) -> nn.Module:
        """Return the model without the block, trained where it was before; its hooks are gone."""
        model = self.trunk.leave()
        delattr(base_model(model), NAME)
        model.train(model.training)
        return model


class _NormedMap(nn.Module):
    """LayerNorm(A h + b): the product in the type of h, the norm in that of its own weights."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.map = nn.Linear(inputs, outputs)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        weight, bias = self.map.weight.to(inputs.dtype), self.map.bias.to(inputs.dtype)
        product = functional.linear(inputs, weight, bias)
        normed: Tensor = self.norm(product.to(self.norm.weight.dtype))
        return normed


def attach_side_block(
    model: nn.Module, reduction: int, *, every: int = 1, seed: int = 0
) -> SideBlock:
    """Freeze a model and put a side block beside it, which is all that is trained from then on.

    The model computes what it did before, to the bit, until the block is trained. Costs about
    k d^2 / f weights, and of backward's memory the last layer's share and k d numbers a token.

    Args:
        model: a causal language model of ``transformers``, changed in place: the block becomes its
            ``side_block``.
        reduction: f, how many times narrower than the model the block is.
        every: the block reads the output of every such layer, counted from the last that it can.
        seed: of the block's weights.

    Returns:
        The block.

    Raises:
        ValueError: an option out of range, or a model without two layers that can be found, with
            adapters, or with a side block.
    """
    reduction, every = (
        check_whole(name, value, least=1)
        for name, value in (("reduction", reduction), ("every", every))
    )
    if is_adapted(model):
        raise ValueError(
            f"{class_name(model)} has adapters, and a side block is trained in their place: use "
            "one of the two."
        )
    if side_block_of(model) is not None:
        raise ValueError(f"{class_name(model)} has a side block already: detach it first.")
    layers = list(find_layers(model))
    width = getattr(text_config(base_model(model)), "hidden_size", None)
    if width is None or reduction > width:
        raise ValueError(
            f"reduction must be at most the hidden size, {width}; got {shown(reduction)}."
        )
    trunk = Trunk(model, find_decoder(model), layers, every)
    like = next(weight for weight in layers[-1].parameters() if weight.is_floating_point())
    block = SideBlock(trunk, width, reduction, check_whole("seed", seed), like)
    trunk.enter(block)
    base_model(model).add_module(NAME, block)
    # Sets the mode of the block, and by it that of the decoder.
    model.train(model.training)
    return block


def side_block_of(model: nn.Module) -> SideBlock | None:
    """Return the side block that a model has, ``None`` where it has none."""
    block = getattr(base_model(model), NAME, None)
    return block if isinstance(block, SideBlock) else None


def is_adapted(model: nn.Module) -> bool:
    """Whether a model is under PEFT."""
    return hasattr(model, "peft_config") or any(hasattr(m, "base_layer") for m in model.modules())
