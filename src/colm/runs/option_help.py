"""The help of ``colm sft``: colm's own options first, in groups, before TRL is even loaded."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any, NoReturn

from trl import TrlParser

from colm.coreset.registry import BASE_DEFAULTS, available_selectors
from colm.training.options.by_selector import options_by_selector
from colm.training.options.memory_arguments import MemoryArguments
from colm.training.options.optimizer_arguments import OptimizerArguments
from colm.training.options.selection_arguments import OFTEN_SET, SelectionArguments
from colm.training.options.subspace_arguments import SubspaceArguments

#: Whose fields help begins with.
_OWN_CLASSES = (SelectionArguments, SubspaceArguments, MemoryArguments, OptimizerArguments)
#: What the groups of help begin and end with.
_RUN = ("help", "config")
_MODEL_AND_DATA = ("model_name_or_path", "dataset_name", "output_dir")
_OWN = {each.name for own in _OWN_CLASSES for each in fields(own)}


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of each option, also of those that the selector decides."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.dest not in _OWN:
            return super()._get_help_string(action)
        meaning = (action.help or "").replace("`", "")
        if action.dest == "selector":
            # Too many for a cell of a table in the docs, which have a table of them.
            meaning = f"{meaning} There are {', '.join(available_selectors())}."
        if action.dest not in BASE_DEFAULTS:
            return f"{meaning} (default: %(default)s)"
        selector = SelectionArguments.selector
        value = options_by_selector(selector)[action.dest]
        default = " ".join(value) if isinstance(value, list) else value
        return f"{meaning} (default: by selector; {selector}: {default})"

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """An option as this project spells it; TRL's parser takes dashes, too."""
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        shown = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{action.option_strings[0]} {shown}"


class SFTParser(TrlParser):
    """TRL's parser: raises instead of leaving the process, and shows colm's options first.

    Args:
        dataclass_types: whose fields are options.

    Attributes:
        instead: values of options that go before all that is parsed, by name.
    """

    def __init__(self, dataclass_types: Sequence[type]) -> None:
        super().__init__(
            dataclass_types,
            prog="colm sft",
            formatter_class=HelpFormatter,
            allow_abbrev=False,
            description="Fine-tune a causal language model on coresets of its mini-batches.",
        )
        self.add_argument(
            "--config",
            metavar="FILE",
            action="append",
            help="Recipe: a YAML file of options, or the name of one that comes with colm, such as "
            "quickstart. Of several, later ones go before earlier ones.",
        )
        self.instead: dict[str, Any] = {}
        # The type of the option is for Python and recipes; here it is pairs, or JSON.
        weights = next(action for action in self._actions if action.dest == "source_weights")
        weights.nargs, weights.metavar = "+", "SOURCE=NUMBER"

    def parse_known_args(self, *args: Any, **options: Any) -> Any:
        """Parse as ever; what stands in ``instead`` goes before it."""
        found, unknown = super().parse_known_args(*args, **options)
        vars(found).update(self.instead)
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would leave the process with."""
        raise ValueError(message)

    def format_help(self) -> str:
        """Return help in groups: selection, what saves memory, then the options of TRL."""
        return f"{self.format_opening()}\n{self.format_rest()}"

    def format_opening(self) -> str:
        """Return the usage, and colm's own options in their groups."""
        formatter = self._get_formatter()
        formatter.add_usage("%(prog)s [--config FILE]... [--OPTION VALUE]...", (), ())
        formatter.add_text(self.description)
        for title, names in own_groups().items():
            self._add_group(formatter, title, names)
        shown: str = formatter.format_help()
        return shown

    def format_rest(self) -> str:
        """Return the options that are not colm's own, those first that every run has."""
        formatter = self._get_formatter()
        self._add_group(formatter, "model, data and output", _MODEL_AND_DATA)
        before = {*_RUN, *_MODEL_AND_DATA, *_OWN}
        rest = [action.dest for action in self._actions if action.dest not in before]
        self._add_group(formatter, "options of TRL, transformers and PEFT", rest)
        shown: str = formatter.format_help()
        return shown

    def _add_group(
        self, formatter: argparse.HelpFormatter, title: str, names: Sequence[str]
    ) -> None:
        order = {name: place for place, name in enumerate(names)}
        group = [action for action in self._actions if action.dest in order]
        formatter.start_section(title)
        formatter.add_arguments(sorted(group, key=lambda action: order[action.dest]))
        formatter.end_section()


def own_groups() -> dict[str, tuple[str, ...]]:
    """Return the names of the options that help begins with, by the title they stand under."""
    of_selection = [each.name for each in fields(SelectionArguments)]
    return {
        "run": _RUN,
        "selection: what people set": OFTEN_SET,
        "selection: the rest": tuple(name for name in of_selection if name not in OFTEN_SET),
        "random subspaces": tuple(each.name for each in fields(SubspaceArguments)),
        "training in less memory": tuple(
            each.name for kind in (MemoryArguments, OptimizerArguments) for each in fields(kind)
        ),
    }


def make_opening_parser() -> SFTParser:
    """Return a parser of colm's own options alone, which needs no heavy library but PyTorch."""
    return SFTParser(_OWN_CLASSES)


def parts_of_help() -> Iterator[str]:
    """Yield the help: colm's own options, then those of TRL, which take seconds to load."""
    yield f"{make_opening_parser().format_opening()}\n"
    from colm.runs.arguments import make_sft_parser

    yield make_sft_parser().format_rest()
