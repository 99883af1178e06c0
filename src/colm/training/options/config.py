"""``CoLMConfig``: TRL's ``SFTConfig`` plus the switches of CoLM.

The switches are `SelectionArguments`, `SubspaceArguments`, `MemoryArguments` and
`OptimizerArguments`; here they meet the configurations of TRL and transformers.
"""

from dataclasses import dataclass, fields
from typing import Any

from transformers import TrainingArguments
from trl import SFTConfig

from colm.training.options.hardware import supports_bf16
from colm.training.options.memory_arguments import MemoryArguments
from colm.training.options.optimizer_arguments import OptimizerArguments
from colm.training.options.selection_arguments import SelectionArguments
from colm.training.options.subspace_arguments import SubspaceArguments


@dataclass
class CoLMConfig(
    SelectionArguments, SubspaceArguments, MemoryArguments, OptimizerArguments, SFTConfig
):
    """Configuration of `colm.CoLMSFTTrainer`: ``SFTConfig``, selection, less memory.

    Where neither ``bf16`` nor ``fp16`` is given, ``bf16`` is on as in TRL, but only where it can
    be, and is no slower: TRL's own default stops on a machine without an accelerator, and on a CPU
    without instructions for bfloat16 takes many times as long.
    """

    def __post_init__(self) -> None:
        """Settle ``bf16``, then everything else.

        Raises:
            ValueError: one line that names the option, its value and the choices.
        """
        given: bool | None = self.bf16  # type: ignore[has-type]
        if given is None and not supports_bf16(self.use_cpu):
            self.bf16 = False
        super().__post_init__()


@dataclass
class CoLMTrainingArguments(
    SelectionArguments, SubspaceArguments, MemoryArguments, OptimizerArguments, TrainingArguments
):
    """Configuration of `colm.CoLMTrainer`: ``TrainingArguments``, selection, less memory."""


def with_selection_arguments(
    args: Any, arguments_class: type[SelectionArguments]
) -> SelectionArguments:
    """Add the defaults of selection to a plain configuration, as TRL adds its own.

    Args:
        args: a configuration of transformers, TRL or colm, or ``None``.
        arguments_class: what a plain one becomes.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(args, SelectionArguments):
        return args
    if args is None:
        return arguments_class()
    if not isinstance(args, TrainingArguments):
        raise ValueError(f"args must be a {arguments_class.__name__}; got {type(args).__name__}.")
    known = {field.name for field in fields(arguments_class)}
    given = {field.name: getattr(args, field.name) for field in fields(args) if field.init}
    return arguments_class(**{name: value for name, value in given.items() if name in known})
