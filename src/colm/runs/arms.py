"""Ways of training held against each other: the same model, data, seed and number of steps.

An arm is one way of training. All arms start from the same weights, adapters included, and draw the
same large mini-batches in the same order; they differ in the options that an arm names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from datasets import Dataset
from peft import LoraConfig
from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    set_seed,
)

from colm.training.options.config import CoLMConfig
from colm.training.options.hardware import has_accelerator
from colm.training.trainer import CoLMSFTTrainer

Metrics = TypeVar("Metrics")

#: LoRA of every linear layer, as in the paper's experiments but smaller.
LORA: Mapping[str, Any] = {
    "r": 16,
    "lora_alpha": 32,
    "target_modules": "all-linear",
    "task_type": "CAUSAL_LM",
}


@dataclass(frozen=True)
class ArmOptions:
    """One way of training: its name, and the fields of ``CoLMConfig`` that set it apart."""

    name: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class ArmResult(Generic[Metrics]):
    """What came of one way of training: metrics of its model, and what its trainer logged."""

    name: str
    metrics: Metrics
    log_history: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ComparisonResult(Generic[Metrics]):
    """Metrics of the untouched model and the result of every arm, in their order."""

    before: Metrics
    arms: Sequence[ArmResult[Metrics]]


@dataclass(frozen=True)
class Setting(Generic[Metrics]):
    """What all arms of a comparison share.

    Attributes:
        load_model: Returns the untouched model, anew at each call.
        tokenizer: Of the model.
        train: Examples in a layout that ``SFTTrainer`` takes, with a source column.
        held_out: Likewise, never trained on.
        evaluate: Takes a model and the tokenised held-out examples, returns what is to be known.
        adapter_dir: Where the first arm's adapter is saved.
        options: Fields of ``CoLMConfig`` for all arms.
    """

    load_model: Callable[[], PreTrainedModel]
    tokenizer: PreTrainedTokenizerBase
    train: Dataset
    held_out: Dataset
    evaluate: Callable[[nn.Module, Dataset], Metrics]
    adapter_dir: Path
    options: Mapping[str, Any]


def compare(
    arms: Sequence[ArmOptions],
    setting: Setting[Metrics],
    make_callback: Callable[[ArmOptions], TrainerCallback] | None = None,
) -> ComparisonResult[Metrics]:
    """Train and evaluate each arm from the same start.

    Args:
        arms: Ways of training, the one of interest first.
        setting: What they share.
        make_callback: Returns a callback for an arm, for instance to show progress.

    Returns:
        Metrics of the untouched model, and of each arm with its log.

    Raises:
        ValueError: There are no arms, or an option cannot be.
    """
    if not arms:
        raise ValueError("a comparison needs at least one arm.")
    results: list[ArmResult[Metrics]] = []
    before: Metrics | None = None
    examples = (setting.train, setting.held_out)
    for arm in arms:
        trainer = _make_trainer(arm, setting, examples)
        # Tokenised by the first trainer, taken as they are by the others.
        examples = (trainer.train_dataset, trainer.eval_dataset)
        if before is None:
            before = setting.evaluate(trainer.model, trainer.eval_dataset)
        if make_callback is not None:
            trainer.add_callback(make_callback(arm))
        trainer.train()
        metrics = setting.evaluate(trainer.model, trainer.eval_dataset)
        results.append(ArmResult(arm.name, metrics, trainer.state.log_history))
        if len(results) == 1:
            trainer.save_model(str(setting.adapter_dir))
    assert before is not None
    return ComparisonResult(before, results)


def _make_trainer(
    arm: ArmOptions, setting: Setting[Metrics], examples: tuple[Dataset, Dataset]
) -> CoLMSFTTrainer:
    """The trainer of an arm, with adapters that start the same in every arm."""
    accelerated = has_accelerator()
    defaults = {
        "output_dir": str(setting.adapter_dir),
        "use_cpu": not accelerated,
        "dataloader_pin_memory": accelerated,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    args = CoLMConfig(**{**defaults, **setting.options, **arm.options})
    set_seed(args.seed)
    train, held_out = examples
    trainer = CoLMSFTTrainer(
        model=setting.load_model(),
        args=args,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=setting.tokenizer,
        peft_config=LoraConfig(**LORA),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
