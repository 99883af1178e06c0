"""The model that ``colm sft`` would train, on the meta device: its shape without its weights.

Only the configuration is read. What the trainer does to a model before training is done here, too:
adapters, checkpointing of activations, and the head that returns log-probabilities.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from trl import get_peft_config
from trl.kernels import chunked_logprob
from trl.trainer.utils import add_fused_lm_head

from colm.coreset.registry import get_selector
from colm.gradients.decoder import base_model
from colm.gradients.example_observer import ExampleObserver
from colm.memory.pruned_vocabulary import check_parts, cuts_head
from colm.planning.packed_weights import has_few_bits, pack, use_packed_maps
from colm.runs.arguments import SFTArguments
from colm.runs.pretrained import LOADING_ERRORS, cannot_load, check_folder
from colm.training.options.selection_arguments import SelectionArguments
from colm.training.processes.exchange import Exchange
from colm.training.side_block_training import put_side_block
from colm.training.step.look import CandidateObserver, ModelAccess
from colm.training.subspace_training import enter_subspaces

DTYPES = ("float32", "bfloat16", "float16")


def build_skeleton(arguments: SFTArguments) -> nn.Module:
    """Return the model of a run, ready to train but for its weights, on the meta device.

    Args:
        arguments: options of the run, from ``colm.runs.arguments.parse_arguments``.

    Raises:
        ValueError: there is no such model, or what is asked of it cannot be had.
    """
    training = arguments.training
    model = _bare_skeleton(arguments)
    packed = has_few_bits(arguments)
    if packed:
        model = use_packed_maps(model, arguments)
    try:
        config = get_peft_config(arguments.model)
        if config is not None:
            model = get_peft_model(model, config)
    except (ValueError, ImportError, TypeError) as error:
        raise ValueError(f"cannot put the adapters on the model: {error}") from error
    if packed:
        pack(model)
    if training.subspace_rank is not None:
        enter_subspaces(model, training)
    if training.activation_checkpointing:
        if config is not None:
            model.enable_input_require_grads()
        checkpoint_activations(model, training.activation_checkpointing_kwargs)
    add_fused_lm_head(
        model.get_base_model() if config is not None else model,
        outputs=("log_probs", "entropy", "is_top1"),
    )
    if training.side_block is not None:
        put_side_block(model, training)
    trainable: nn.Module = model.train()
    return trainable


def cut_vocabulary(model: nn.Module, tokens: int | None) -> int:
    """Leave rows for the used tokens alone, as `colm.memory.pruned_vocabulary` does.

    Args:
        model: on the meta device; it may be PEFT's wrapper.
        tokens: k.

    Returns:
        Bytes of the rows left out.

    Raises:
        ValueError: a model of which rows cannot be taken, or more rows than it has.
    """
    if tokens is None:
        raise ValueError(
            "prune_vocabulary=True: say with --used_tokens how many tokens the data use"
        )
    try:
        check_parts(model)
    except ValueError as error:
        raise ValueError(f"prune_vocabulary=True: {error}") from error
    base: Any = base_model(model)
    embedding = base.get_input_embeddings()
    size = len(embedding.weight)
    if not 1 <= tokens <= size:
        raise ValueError(f"--used_tokens must be 1 to {size}, the vocabulary; got {tokens}")
    modules = [embedding, *([base.get_output_embeddings()] if cuts_head(model) else [])]
    made: dict[int, nn.Parameter] = {}
    left_out_bytes = 0
    for module in modules:
        for name, weight in list(module.named_parameters(recurse=False)):
            if id(weight) not in made:
                rows = weight.detach().new_empty((tokens, *weight.shape[1:]))
                made[id(weight)] = nn.Parameter(rows, weight.requires_grad)
                left_out_bytes += weight.nbytes - rows.nbytes
            setattr(module, name, made[id(weight)])
    embedding.padding_idx = None
    return left_out_bytes


def checkpoint_activations(model: Any, options: dict[str, Any] | None) -> None:
    """Checkpoint a model's activations as the trainer does when training begins.

    Args:
        model: it may be PEFT's wrapper.
        options: ``activation_checkpointing_kwargs``.
    """
    options = dict(options or {})
    every, offload = options.pop("every_n_layers", 1), options.pop("offload", False)
    options.pop("selective", None)
    model.activation_checkpointing_enable(
        activation_checkpointing_kwargs=options or None, every_n_layers=every, offload=offload
    )


def _bare_skeleton(arguments: SFTArguments) -> Any:
    name = arguments.model.model_name_or_path
    if not name:
        raise ValueError("no model: set model_name_or_path to a folder or the name of a hub model")
    check_folder(name, "model_name_or_path")
    trusted = arguments.training.trust_remote_code
    try:
        config = AutoConfig.from_pretrained(
            name, revision=arguments.model.model_revision, trust_remote_code=trusted
        )
        architecture = getattr(transformers, (config.architectures or [""])[0] or "none", None)
        options = {
            "dtype": _dtype(arguments, config),
            "attn_implementation": arguments.model.attn_implementation,
        }
        with torch.device("meta"):
            if architecture is None:
                return AutoModelForCausalLM.from_config(
                    config, trust_remote_code=trusted, **options
                )
            return architecture._from_config(config, **options)
    except LOADING_ERRORS as error:
        refusal = cannot_load("read the configuration of model", name, error)
        if isinstance(error, OSError) and not Path(name).expanduser().exists():
            refusal = ValueError(
                f"{str(refusal).rstrip('.')}; a folder with its config.json is enough for a plan"
            )
        raise refusal from error


def _dtype(arguments: SFTArguments, config: Any) -> torch.dtype:
    """The type of the weights, as TRL loads them."""
    name = (arguments.training.model_init_kwargs or {}).get("dtype", arguments.model.dtype)
    if name in (None, "auto"):
        stored: torch.dtype = config.dtype or torch.float32
        return stored
    if name not in DTYPES:
        raise ValueError(f"dtype must be one of auto, {', '.join(DTYPES)}; got {name!r}")
    named: torch.dtype = getattr(torch, name)
    return named


def training_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the loss of a batch as ``SFTTrainer`` computes it."""
    outputs = model(**batch, use_cache=False, fused_lm_head=True)
    loss: Tensor = -outputs.log_probs.sum() / outputs.label_mask.sum().clamp(min=1)
    return loss


@contextmanager
def loss_in_place() -> Iterator[None]:
    """Let TRL's loss make nothing beside a tile of logits, as its kernels do on an accelerator.

    What they replace must not be counted; they themselves cannot run on tensors without values.
    What the loss returns is of the right shape alone.
    """
    folds = ("_forward_tile", "_backward_tile")
    own = {name: getattr(chunked_logprob, name) for name in folds}
    try:
        for name in folds:
            setattr(chunked_logprob, name, lambda *_, **__: None)
        yield
    finally:
        for name, function in own.items():
            setattr(chunked_logprob, name, function)


def has_loss_kernels(device: torch.device) -> bool:
    """Whether TRL has kernels for its loss on a device."""
    return bool(chunked_logprob._use_triton(device))


def autocast_dtype(arguments: SFTArguments) -> torch.dtype | None:
    """Return the type that training computes in, ``None`` where it is that of the weights."""
    if arguments.training.bf16:
        return torch.bfloat16
    return torch.float16 if arguments.training.fp16 else None


def observer_of(args: SelectionArguments, model: nn.Module) -> ExampleObserver | None:
    """Return what looks at candidates under these options; ``None`` where nothing does."""
    needs = get_selector(args.selector).needs
    if args.prompt_features and "gradients" in needs and "prompt" not in needs:
        needs = (*needs, "prompt")
    if not needs or args.candidate_ratio <= 1:
        return None
    access = ModelAccess(
        model=lambda: model,
        collate=lambda _: {},
        prepare=dict,
        autocast=nullcontext,
        optimizer=lambda: None,
    )
    # As the trainer makes it, whatever options that takes.
    return CandidateObserver(args, access, needs, 0, Exchange()).example_observer
