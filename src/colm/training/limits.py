"""What selection cannot work with, refused before anything is trained, in one clear line each."""

import importlib.util
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from datasets import Dataset
from trl import SFTTrainer

from colm.coreset.coreset_selector import SMALL_SOURCES_AUTO, SMALL_SOURCES_NONE
from colm.coreset.registry import get_selector
from colm.data.joining import is_drawn_by_shares
from colm.gradients.adapters import check_adapter
from colm.gradients.decoder import base_model, class_name, text_config
from colm.training.optimizers import optimizer_name
from colm.training.options.by_selector import brought_by
from colm.training.options.selection_arguments import SelectionArguments
from colm.training.step.arrange import averages_over_step
from colm.training.step.draw import check_draws_by_number, length_of
from colm.training.step.source_columns import column_names
from colm.training.step.token_losses import can_read_losses
from colm.training.step.weigh import weighing_option
from colm.training.vocabulary import check_token_ids

SHOWN_NAMES = 20
# Kinds of distributed training, as Accelerate names them, that split parameters or moments.
SHARDING = ("FSDP", "DEEPSPEED", "MEGATRON_LM")
#: Optimisers that update a weight inside the backward, and let go of its gradient at once.
UPDATES_IN_BACKWARD = ("lomo", "adalomo")

logger = logging.getLogger(__name__)


def check_arguments(args: SelectionArguments) -> None:
    """Refuse the options that selection cannot work with, and force off dispatching.

    Raises:
        ValueError: such an option.
    """
    selector = get_selector(args.selector)
    by_source = bool(selector.needs) or args.small_sources != [SMALL_SOURCES_NONE]
    if getattr(args, "packing", False) and by_source:
        raise ValueError(
            f"packing=True mixes examples and their sources, and selector={args.selector!r} "
            "selects single examples: set packing=False, or padding_free=True with max_length=None."
        )
    strategy = getattr(args, "train_sampling_strategy", None)
    if strategy == "batch_rebalance":
        raise ValueError(
            "train_sampling_strategy='batch_rebalance' ignores the batch size, so no candidates "
            "can be drawn with it: use 'random', 'sequential' or 'group_by_length'."
        )
    batch_size = args.per_device_train_batch_size  # type: ignore[attr-defined]
    if round(batch_size * args.candidate_ratio) == batch_size:
        raise ValueError(
            f"candidate_ratio={args.candidate_ratio} of per_device_train_batch_size={batch_size} "
            "draws no more than are kept: raise either, or set candidate_ratio=1."
        )
    optim = optimizer_name(args)
    accumulated = args.gradient_accumulation_steps  # type: ignore[attr-defined]
    if optim in UPDATES_IN_BACKWARD and accumulated > 1:
        raise ValueError(
            f"optim={optim!r} updates weights inside each backward, and gradient_accumulation_steps"
            f"={accumulated} micro-batches are chosen for one update: set "
            "gradient_accumulation_steps=1 and a larger per_device_train_batch_size."
        )
    if args.n_gpu > 1:  # type: ignore[attr-defined]
        raise ValueError(
            "nn.DataParallel is not supported: start one process a GPU with accelerate launch or "
            "torchrun, or make one visible with CUDA_VISIBLE_DEVICES."
        )
    # Dispatching would concatenate batches across processes; pools cannot be.
    args.accelerator_config.dispatch_batches = False  # type: ignore[attr-defined]


def check_trainer(trainer: Any, source_column: str | None) -> None:
    """Refuse what options, model, data and processes of a trainer cannot do together.

    Args:
        trainer: built, not yet trained.
        source_column: that the data has, or will have when training begins.

    Raises:
        ValueError: such a thing, in one line that names the option.
    """
    args, dataset = trainer.args, trainer.train_dataset
    if args.candidate_ratio > 1:
        check_parallelism(trainer.accelerator, args)
        check_tokenized(dataset)
    if (option := weighing_option(args)) is not None:
        check_weighting(trainer, option)
    if looks(args):
        check_model(trainer.model)
    if args.source_clusters is not None:
        check_clusters(args, dataset, trainer.accelerator)
    check_candidate_sampling(args, dataset, source_column)
    if args.candidate_sampling == "adaptive" and source_column is not None:
        check_adaptive_draws(trainer)
    check_token_ids(trainer)


def looks(args: SelectionArguments) -> bool:
    """Whether examples are looked at with the model in training, for whatever reason."""
    selects = bool(get_selector(args.selector).needs)
    return args.source_clusters is not None or (
        args.candidate_ratio > 1 and (selects or args.match_every > 0)
    )


def check_model(model: Any) -> None:
    """Refuse a model that examples cannot be looked at with.

    Raises:
        ValueError: it is no causal language model, or has an adapter that no look sees.
    """
    base = base_model(model)
    config, head = text_config(base), getattr(base, "get_output_embeddings", lambda: None)()
    lacking = (
        "has no config"
        if config is None
        else "reads with an encoder"
        if getattr(base.config, "is_encoder_decoder", False)
        else "predicts no tokens"
        if head is None
        else None
    )
    if lacking is not None:
        raise ValueError(
            "selection looks at examples with a causal language model, and "
            f"{class_name(model)} {lacking}: use a selector that does not look, such as "
            "selector='random', with match_every=0 and no source_clusters, or set "
            "candidate_ratio=1."
        )
    check_adapter(model)


def hidden_size(model: Any) -> int | None:
    """Return e of a model, ``None`` where it does not tell."""
    size: int | None = getattr(text_config(model), "hidden_size", None)
    return size


def shards_weights(accelerator: Any) -> bool:
    """Whether the processes hold the model's weights together: FSDP and ZeRO-3."""
    distribution = getattr(accelerator.distributed_type, "name", "NO")
    if distribution == "DEEPSPEED":
        return bool(accelerator.state.deepspeed_plugin.zero_stage == 3)
    return distribution == "FSDP"


def check_parallelism(accelerator: Any, args: SelectionArguments) -> None:
    """Refuse ways of spreading the work that selection does not know.

    Raises:
        ValueError: such a way.
    """
    parallelism = getattr(accelerator, "parallelism_config", None)
    splits_tensors = parallelism is not None and getattr(parallelism, "tp_enabled", False)
    if args.selection_scope == "global" and splits_tensors:
        raise ValueError(
            "selection_scope='global' would count the candidates that tensor-parallel processes "
            "share once for each: use selection_scope='local'."
        )
    distribution = getattr(accelerator.distributed_type, "name", "NO")
    if args.match_every and (splits_tensors or distribution in SHARDING):
        raise ValueError(
            f"match_every={args.match_every} needs whole gradients and moments on each process, "
            f"which {'tensor parallelism' if splits_tensors else distribution} shards: set "
            "match_every=0."
        )
    is_old = distribution == "FSDP" and accelerator.state.fsdp_plugin.fsdp_version == 1
    if is_old and get_selector(args.selector).needs:
        raise ValueError(
            f"selector={args.selector!r} runs parts of the model, for which FSDP version 1 does "
            "not gather weights: set version to 2 in fsdp_config, or fsdp_version for accelerate."
        )
    for kind in ("cp", "sp"):
        if parallelism is not None and getattr(parallelism, f"{kind}_enabled", False):
            raise ValueError(
                f"{kind}_size > 1 splits single examples across processes, which selection does "
                f"not support: set {kind}_size=1."
            )


def check_tokenized(dataset: Any) -> None:
    """Refuse training data that is not tokenised text.

    Raises:
        ValueError: there are no token ids; the message says which columns there are.
    """
    columns = column_names(dataset)
    if columns and "input_ids" not in columns:
        raise ValueError(
            "selection needs tokenised text, and the training data has no column 'input_ids'; its "
            f"columns are {', '.join(columns)}."
        )


def check_candidate_sampling(
    args: SelectionArguments, dataset: Any, source_column: str | None
) -> None:
    """Refuse to draw by source where that cannot be.

    Draws by size are uniform ones where all examples are of one source, and need not know of any.

    Raises:
        ValueError: such a data set, or a strategy that draws in another way.
    """
    if args.candidate_sampling == "uniform":
        return
    brought = brought_by(args, "candidate_sampling")
    option = f"candidate_sampling={args.candidate_sampling!r}{brought}"
    if is_drawn_by_shares(dataset):
        if args.source_weights_by == "tokens":
            raise ValueError(
                "source_weights_by='tokens' counts label tokens before training, which streamed "
                "data does not allow: load the data whole, or set source_weights_by='examples'."
            )
        return
    check_draws_by_number(option, args, dataset, instead="candidate_sampling='uniform'")
    if source_column is None and args.candidate_sampling in ("inverse_source_size", "weights"):
        raise ValueError(
            f"{option} needs the source of each example: set source_column, or source_clusters "
            f"where sources are unknown; the columns are {', '.join(column_names(dataset))}."
        )


def check_adaptive_draws(trainer: Any) -> None:
    """Refuse to draw by losses that the trainer does not tell.

    Raises:
        ValueError: its loss is one of its own.
    """
    if not can_read_losses(trainer):
        raise ValueError(
            "candidate_sampling='adaptive' goes by the losses of examples, and this trainer "
            "computes none that can be read: set candidate_sampling='unimax'."
        )


def check_clusters(args: Any, dataset: Any, accelerator: Any) -> None:
    """Refuse to cluster what cannot be read before training.

    Raises:
        ValueError: such data, a model that is not whole, or scikit-learn is missing.
    """
    option = f"source_clusters={args.source_clusters}"
    if getattr(args, "packing", False):
        raise ValueError(f"{option} clusters single examples, which packing=True joins: set one.")
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"{option} reads all examples before training, which takes a datasets.Dataset; got "
            f"{type(dataset).__name__}: load the data whole."
        )
    if args.source_clusters > len(dataset):
        raise ValueError(f"{option} is more than there are training examples: {len(dataset)}.")
    distribution = getattr(accelerator.distributed_type, "name", "NO")
    if distribution in SHARDING:
        raise ValueError(
            f"{option} needs the whole model on each process before training, which {distribution} "
            "shards: find clusters without it, and name them in a source column."
        )
    for module in ("sklearn", "threadpoolctl"):
        if importlib.util.find_spec(module) is None:
            raise ValueError(f"{option} needs scikit-learn: pip install 'colm[clusters]'.")


def check_weighting(trainer: Any, option: str) -> None:
    """Refuse to weigh examples where the trainer's loss is not a mean over label tokens.

    Args:
        trainer: built, not yet trained.
        option: that weighs, with its value.

    Raises:
        ValueError: such a loss, by name.
    """
    args, model = trainer.args, trainer.model
    routes = getattr(text_config(model), "output_router_logits", False)
    routed = routes and not isinstance(trainer, SFTTrainer)
    smoothing = args.label_smoothing_factor
    own = f"the loss of {type(model).__name__}, which takes no num_items_in_batch"
    wrong = {
        "loss_type='dft'": getattr(args, "loss_type", "nll") == "dft",
        f"label_smoothing_factor={smoothing}": smoothing > 0,
        "a compute_loss_func": trainer.compute_loss_func is not None,
        "output_router_logits=True outside SFTTrainer": routed,
        own: not trainer.model_accepts_loss_kwargs,
        "a loss averaged over each micro-batch by itself": not averages_over_step(trainer),
    }
    for name, is_so in wrong.items():
        if is_so:
            raise ValueError(
                f"{option} weighs the mean loss of label tokens, which {name} is not: do without "
                "either."
            )


def check_small_sources(names: Sequence[str], known: Collection[str] | None) -> None:
    """Refuse names of small sources that the data set does not have.

    Raises:
        ValueError: such a name; the message says which sources there are.
    """
    if known is None or list(names) in ([SMALL_SOURCES_AUTO], [SMALL_SOURCES_NONE]):
        return
    unknown = [name for name in names if name not in known]
    if unknown:
        shown = ", ".join(sorted(known)[:SHOWN_NAMES])
        more = f" and {len(known) - SHOWN_NAMES} more" if len(known) > SHOWN_NAMES else ""
        raise ValueError(
            f"small_sources names {', '.join(map(repr, unknown))}, which the training data does "
            f"not have; its sources are {shown}{more}."
        )


def check_not_empty(train_dataset: Any, eval_dataset: Any, args: Any) -> None:
    """Refuse data sets without examples, as far as they tell how many they have.

    Args:
        train_dataset: what is to be trained on.
        eval_dataset: what is to be evaluated on, one or several by name, or none.
        args: the options.

    Raises:
        ValueError: such a data set, by name.
    """
    named = {"training": train_dataset}
    if getattr(args.eval_strategy, "value", args.eval_strategy) != "no" or args.eval_on_start:
        named |= _evaluated(eval_dataset)
    for name, dataset in named.items():
        if dataset is not None and length_of(dataset) == 0:
            raise ValueError(f"the {name} data has no examples")


@contextmanager
def naming_empty_data() -> Iterator[None]:
    """Say so where a stream has no first example to look at."""
    try:
        yield
    except StopIteration as error:
        raise ValueError("the training or the evaluation data has no examples") from error


def _evaluated(dataset: Any) -> dict[str, Any]:
    """The data sets for evaluation by what they are called in messages."""
    if isinstance(dataset, Mapping):
        return {f"evaluation ({name})": each for name, each in dataset.items()}
    return {"evaluation": dataset}


def report_unlabeled(name: str, given: Any, left: Any, args: Any) -> None:
    """Say how many examples the trainer left out: cut to ``max_length``, they have no labels.

    Args:
        name: of the data set.
        given: the data set as it was passed, or several by name.
        left: what the trainer made of it.
        args: the options.

    Raises:
        ValueError: none is left.
    """
    if isinstance(given, Mapping) and isinstance(left, Mapping):
        for part in given:
            report_unlabeled(f"{name} ({part})", given[part], left.get(part), args)
        return
    if not isinstance(given, Dataset) or not isinstance(left, Dataset):
        return
    if getattr(args, "packing", False) or len(given) == len(left):
        return
    length = getattr(args, "max_length", None)
    if len(left) == 0:
        raise ValueError(
            f"none of the {len(given)} {name} examples has label tokens within max_length {length}"
        )
    logger.warning(
        "left out %d of %d %s examples: no label tokens within max_length %s",
        len(given) - len(left),
        len(given),
        name,
        length,
    )
