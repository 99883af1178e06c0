"""What a trainer adds to train with a pruned vocabulary: cutting, labels, whole models out.

The model is cut to the tokens of its data before it is wrapped, and whole again when training ends.
In between it is whole wherever somebody looks at it from outside of a step: an evaluation, a
checkpoint, a callback that runs it. A checkpoint holds the whole model, which can be loaded as any,
and beside it which tokens the optimiser's moments belong to.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save
from torch import Tensor

from colm.durable import write_whole
from colm.gradients.decoder import text_config
from colm.memory.pruned_vocabulary import PrunedVocabulary, check_prunable
from colm.training.example import WEIGHT_KEY
from colm.training.limits import SHARDING
from colm.training.optimizers import ZEROTH_ORDER
from colm.training.processes.exchange import Exchange
from colm.training.step.record import PREFIX
from colm.training.vocabulary import data_sets, tokens_used, vocabulary_size

if TYPE_CHECKING:  # to a type checker the mixin is a trainer, as it is wherever it is used
    from transformers import Trainer as _Base
else:
    _Base = object

TOKENS_FILE = "colm_vocabulary.safetensors"
_OPTION = "prune_vocabulary=True"
_TOKENS = "tokens"
_SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id", "unk_token_id")


class VocabularyMixin(_Base):
    """Training with a pruned vocabulary for any trainer of ``transformers``."""

    _group: Exchange
    _pruned: PrunedVocabulary | None = None
    # The micro-batch that was trained on last.
    _last_batch: Mapping[str, Any] | None = None
    # What is told of a run: tokens used, and all.
    _vocabulary_facts: Mapping[str, int] | None = None

    def train(self, *args: Any, **options: Any) -> Any:
        """Train as ever, on the used tokens where ``prune_vocabulary`` is set."""
        self._vocabulary_facts = None
        if not self.args.prune_vocabulary:
            return super().train(*args, **options)
        with self._pruning():
            return super().train(*args, **options)

    @contextmanager
    def _pruning(self) -> Iterator[None]:
        """Cut the model to the tokens of its data; what refers to the rows goes at the end."""
        check_vocabulary(self)
        tokens = self._group.union(used_tokens(self)).cpu()
        model = self.accelerator.unwrap_model(self.model)
        self._pruned = PrunedVocabulary(model, tokens, self._name_of_token)
        self._vocabulary_facts = {"tokens": len(tokens), "all_tokens": self._pruned.size}
        handler = self.callback_handler
        handler.call_event = self._pruned.whole_if_run()(handler.call_event)
        try:
            yield
        finally:
            del handler.call_event
            # The moments of the rows go first, to make room for all rows.
            self.optimizer = self.lr_scheduler = None
            handler.optimizer = handler.lr_scheduler = None
            self.accelerator.free_memory()
            self._pruned.restore()
            self._pruned = self._last_batch = None
            self.model_wrapped = self.model

    def whole_vocabulary(self) -> AbstractContextManager[None]:
        """Let the model have all its tokens inside, wherever training is."""
        return nullcontext() if self._pruned is None else self._pruned.whole()

    def label_places(self, tokens: Tensor) -> Tensor:
        """Return which logits of the model are those of tokens, as it is now."""
        return tokens if self._pruned is None else self._pruned.label_places(tokens)

    def _prepare_inputs(self, inputs: Any) -> Any:
        """Prepare a batch; its labels say which of the logits there are is theirs."""
        inputs = super()._prepare_inputs(inputs)
        return inputs if self._pruned is None else self._pruned.with_places(inputs)

    def training_step(self, *args: Any, **options: Any) -> Any:
        """Train on a micro-batch, and keep it for the missing mass to be measured on."""
        if self._pruned is not None and self._pruned.cuts_head:
            batch = options["inputs"] if "inputs" in options else args[1]
            self._last_batch = {k: v for k, v in batch.items() if k != WEIGHT_KEY}
        return super().training_step(*args, **options)

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Log what the softmax misses beside the loss of training."""
        if "loss" in logs and self._pruned is not None and self._last_batch is not None:
            batch = self._prepare_inputs(self._last_batch)
            with self.accelerator.autocast():
                mass = self._pruned.missing_mass(batch).double().cpu()
            total, number = self._group.total(torch.stack([mass.sum(), mass.new_tensor(len(mass))]))
            logs[f"{PREFIX}missing_mass"] = float(total / number.clamp(min=1))
        super().log(logs, *args, **options)

    def evaluation_loop(self, *args: Any, **options: Any) -> Any:
        """Evaluate over the whole vocabulary."""
        with self.whole_vocabulary():
            return super().evaluation_loop(*args, **options)

    def save_model(self, *args: Any, **options: Any) -> None:
        """Save the whole model."""
        with self.whole_vocabulary():
            super().save_model(*args, **options)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save where the optimiser is saved which tokens its moments belong to."""
        super()._save_optimizer_and_scheduler(output_dir)
        if self._pruned is not None and self.args.should_save:
            write_whole(Path(output_dir) / TOKENS_FILE, save({_TOKENS: self._pruned.tokens}))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load the whole model of a checkpoint that is of the same tokens."""
        if self._pruned is not None:
            _check_tokens(self._pruned.tokens, Path(resume_from_checkpoint))
        with self.whole_vocabulary():
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        """Load the best model, which is a whole one."""
        with self.whole_vocabulary():
            super()._load_best_model()

    def _name_of_token(self, token: int) -> str:
        """A token as messages show it."""
        processing: Any = self.processing_class
        decode = getattr(processing, "decode", None)
        return "a token" if decode is None else repr(decode([token]))


def used_tokens(trainer: Any) -> Tensor:
    """Return the ids that training and held-out data of a trainer use, and all special ones.

    Reads the columns of token ids once.

    Returns:
        int64, ascending.

    Raises:
        ValueError: data that cannot be read before training, or a model that tells no V.
    """
    size = vocabulary_size(trainer.model)
    if size is None:
        raise ValueError(f"{_OPTION} needs a model that tells how many tokens it has.")
    found = torch.zeros(size, dtype=torch.bool)
    for dataset in data_sets(trainer).values():
        found[tokens_used(dataset)] = True
    special = torch.tensor(sorted(_special_tokens(trainer)), dtype=torch.int64)
    found[special[special < size]] = True
    return found.nonzero().flatten()


def check_vocabulary(trainer: Any) -> None:
    """Refuse what cannot be trained with a pruned vocabulary, before anything is changed.

    Raises:
        ValueError: such data, such a model or way of training, by name.
    """
    distribution = getattr(trainer.accelerator.distributed_type, "name", "NO")
    wrong = {
        "an optimiser that was made of the whole model, which the trainer was given: pass none": (
            trainer.optimizer is not None
        ),
        "model_init, which makes another model when training begins: pass model": (
            trainer.model_init is not None
        ),
        f"{distribution}, which shards weights: train with DDP": distribution in SHARDING,
        "nn.DataParallel: start one process a GPU": trainer.args.n_gpu > 1,
        f"optim={ZEROTH_ORDER!r}, whose log is to make all rows again": (
            trainer.args.optim == ZEROTH_ORDER
        ),
    }
    for what, is_so in wrong.items():
        if is_so:
            raise ValueError(f"{_OPTION} cannot be with {what}, or set prune_vocabulary=False.")
    for name, dataset in data_sets(trainer).items():
        if not (isinstance(dataset, Dataset) and "input_ids" in dataset.column_names):
            raise ValueError(
                f"{_OPTION} reads all tokens before training, and the {name} data are no "
                "datasets.Dataset with a column 'input_ids': load them whole and tokenised, "
                "without dataset_streaming."
            )
        if dataset.format["type"] == "custom":
            raise ValueError(
                f"{_OPTION} reads all tokens before training, and the {name} data compute theirs "
                "when an example is asked for: map them before."
            )
    try:
        check_prunable(trainer.model)
    except ValueError as error:
        raise ValueError(f"{_OPTION}: {error}") from error


def _special_tokens(trainer: Any) -> set[int]:
    """Ids that tokenizer, collator and model have a use of their own for."""
    processing = trainer.processing_class
    tokenizer = getattr(processing, "tokenizer", processing)
    model = trainer.model
    found = [*getattr(tokenizer, "all_special_ids", ())]
    for each in (
        trainer.data_collator,
        text_config(model),
        getattr(model, "generation_config", None),
    ):
        for name in _SPECIAL:
            value = getattr(each, name, None)
            found += value if isinstance(value, list) else [value]
    found.append(model.get_input_embeddings().padding_idx)
    return {each for each in found if isinstance(each, int) and each >= 0}


def _check_tokens(tokens: Tensor, checkpoint: Path) -> None:
    """Refuse a checkpoint whose optimiser has moments of other tokens.

    Raises:
        ValueError: it has, or does not say so.
    """
    path = checkpoint / TOKENS_FILE
    if not path.is_file():
        raise ValueError(
            f"{checkpoint} has no {TOKENS_FILE}: it was not written by a run with {_OPTION}."
        )
    if not torch.equal(load_file(path)[_TOKENS], tokens):
        raise ValueError(
            f"the training and held-out data use other tokens than when {checkpoint} was written "
            f"with {_OPTION}: resume with the same data and eval_dataset, or start a new run."
        )
