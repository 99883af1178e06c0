"""The column layouts that are understood, and which of them a data set has."""

from collections.abc import Collection
from typing import NamedTuple


class Layout(NamedTuple):
    """Columns that together say how a record is to be read."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the layout is called in messages.

        Example:
            >>> Layout(("instruction", "output"), ("input",)).name
            'instruction + output'
        """
        return " + ".join(self.required)


#: Columns that only a chat template has a use for.
CHAT_OPTIONS = ("tools", "chat_template_kwargs")

TOKENIZED = Layout(
    ("input_ids",),
    ("attention_mask", "labels", "completion_mask", "assistant_masks", "seq_lengths"),
)
PROMPT_COMPLETION = Layout(("prompt", "completion"), ("system", *CHAT_OPTIONS))
MESSAGES = Layout(("messages",), ("system", *CHAT_OPTIONS))
SHARE_GPT = Layout(("conversations",), ("system", *CHAT_OPTIONS))
_ASKED = ("system", "history", *CHAT_OPTIONS)
PAIRS = (
    Layout(("instruction", "output"), ("input", *_ASKED)),
    Layout(("instruction", "response"), ("context", *_ASKED)),
    Layout(("question", "answer"), ("context", *_ASKED)),
    Layout(("query", "response"), _ASKED),
    Layout(("problem", "solution"), _ASKED),
)
#: Columns of what a question is about, where that comes apart from it.
ABOUT = ("input", "context")
TEXT = Layout(("text",))

#: Column of the answer in labelled data sets.
LABEL = "label"
_MULTIRC = Layout(("paragraph", "question", "answer", LABEL))
_WSC = Layout(("text", "span1_text", "span2_text", LABEL))
#: The tasks of SuperGLUE and SST-2; ``colm.data.superglue`` has their prompts.
LABELLED = (
    _MULTIRC,
    _WSC,
    Layout(("passage", "question", LABEL)),
    Layout(("premise", "choice1", "choice2", "question", LABEL)),
    Layout(("premise", "hypothesis", LABEL)),
    Layout(("word", "sentence1", "sentence2", LABEL)),
    Layout(("sentence", LABEL)),
)

#: Every layout; the first whose required columns are all there is taken. One that has all columns
#: of another stands before it.
LAYOUTS = (
    TOKENIZED,
    PROMPT_COMPLETION,
    MESSAGES,
    SHARE_GPT,
    _MULTIRC,
    *PAIRS,
    _WSC,
    TEXT,
    *LABELLED[2:],
)


def find_layout(columns: Collection[str], text_column: str = "text") -> Layout:
    """Return the layout of a data set with these columns.

    Args:
        columns: Names of the columns.
        text_column: Column of plain text; one that is not called "text" was named on purpose and
            goes before every other layout.

    Returns:
        The first entry of ``LAYOUTS`` whose required columns are there.

    Raises:
        ValueError: None is; the message lists the columns and the layouts.

    Example:
        >>> find_layout(["source", "instruction", "output"]).name
        'instruction + output'
    """
    if text_column not in TEXT.required and text_column in columns:
        return Layout((text_column,))
    for layout in LAYOUTS:
        if set(layout.required) <= set(columns):
            return layout
    known = "; ".join(layout.name for layout in LAYOUTS)
    raise ValueError(f"no known layout in columns {', '.join(columns)}; expected one of: {known}")
