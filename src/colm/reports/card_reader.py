"""What the model card of a run tells: the options, the sources, the versions.

The card is Markdown that ``colm sft`` wrote, and people may have written in it since: what is not
found as it was written is left out.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from colm.reports.run_names import clean

CARD = "README.md"

_OPTION = re.compile(r"^\| `([^`|]+)` \| `([^`\n]*)` \|$", re.MULTILINE)
_SOURCE = re.compile(r"^\| (?:`([^`\n]+)`|(.+)) \| ([0-9]{1,15}) \|$", re.MULTILINE)
# What a span of code cannot hold, as the card has it.
_MARKUP = re.compile(r"(?<!\\)\\x(60|7c)")
_VERSION = re.compile(r"^- ([\w. -]+): (\S+)$", re.MULTILINE)
_BASE = re.compile(r"fine-tuned version of (?:\[([^\]]+)\]|`([^`]+)`)")
_DRAWN = re.compile(
    r"^Each step drew ([0-9]{1,15}) examples and trained on ([0-9]{1,15}) of them\.$", re.MULTILINE
)


@dataclass(frozen=True)
class Card:
    """What was found.

    Attributes:
        settings: Options as they are to be read.
        source_sizes: Training examples of each source.
        versions: Of the software.
    """

    settings: dict[str, str] = field(default_factory=dict)
    source_sizes: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def read_card(folder: Path) -> Card:
    """Return what the model card in a folder tells.

    Args:
        folder: Of a run.

    Returns:
        All that was found; nothing where there is no card.
    """
    path = folder / CARD
    if not path.is_file():
        return Card()
    text = path.read_text("utf-8", errors="replace")
    settings = {}
    if base := _BASE.search(text):
        settings["model"] = without_folder(base[1] or _of_code(base[2]))
    if drawn := _DRAWN.search(text):
        settings["drawn each step"] = f"{drawn[1]} examples"
        settings["trained on each step"] = f"{drawn[2]} examples"
    settings |= {clean(name): _of_code(value) for name, value in _OPTION.findall(text)}
    sources = _SOURCE.findall(_section(text, "Training data"))
    versions = _VERSION.findall(_section(text, "Framework versions"))
    return Card(
        settings=settings,
        source_sizes={
            _of_code(code) if code else clean(text): int(number) for code, text, number in sources
        },
        versions={clean(name): clean(number) for name, number in versions},
    )


def without_folder(name: str) -> str:
    """Return a name as given, but of a path its end alone.

    Args:
        name: Of a model or a file.

    Returns:
        Where it lies is one machine's business.

    Example:
        >>> without_folder("/models/tiny"), without_folder("owner/model")
        ('tiny', 'owner/model')
    """
    is_path = name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1
    return clean(re.split(r"[/\\]", name.rstrip("/\\"))[-1] if is_path else name)


def _of_code(text: str) -> str:
    """What a span of code of the card stands for, in one line."""
    return clean(_MARKUP.sub(lambda found: chr(int(found[1], 16)), text))


def _section(text: str, title: str) -> str:
    """What stands below a heading of third level, up to the next heading."""
    found = re.search(rf"^### {title}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""
