"""What a record of each layout becomes: the columns that it is made of, and those that it gets."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from datasets import ClassLabel, Dataset, Features, IterableDataset, Json, LargeList, List, Value

from colm.data.conversations import (
    Turn,
    as_template_options,
    as_tools,
    as_turns,
    from_share_gpt,
    is_answered,
    with_system,
)
from colm.data.exact_json import ExactJson
from colm.data.layouts import (
    ABOUT,
    CHAT_OPTIONS,
    LABEL,
    LABELLED,
    MESSAGES,
    PAIRS,
    PROMPT_COMPLETION,
    SHARE_GPT,
    TOKENIZED,
    Layout,
)
from colm.data.prompts import chat_prompt, continued_prompt, plain_prompt
from colm.data.superglue import answer_word, find_task, label_names, question_of
from colm.data.values import as_text

Row: TypeAlias = dict[str, Any]
AnyDataset: TypeAlias = Dataset | IterableDataset
Convert: TypeAlias = Callable[[Row], Row | None]

#: Messages with whatever keys they have, so that files whose messages differ in them go together.
CHAT = List(ExactJson())
_OPTIONS: Mapping[str, Callable[[Any], Any]] = {
    "tools": as_tools,
    "chat_template_kwargs": as_template_options,
}


class Conversion(NamedTuple):
    """What a record becomes, and of what.

    Attributes:
        convert: The record that it becomes, ``None`` where it is empty.
        features: Types of the result's columns.
        reads: Columns that it is made of.
    """

    convert: Convert
    features: Mapping[str, Any]
    reads: tuple[str, ...]


def layout_conversion(
    layout: Layout, dataset: AnyDataset, columns: Features, conversational: bool
) -> Conversion:
    """Return what becomes of the records of a data set.

    Args:
        layout: The layout that it has.
        dataset: Data set, looked at where types of columns do not tell enough.
        columns: Types of its columns.
        conversational: Whether the tokenizer has a chat template.

    Returns:
        The conversion.

    Raises:
        ValueError: It holds messages and there is no chat template, its columns do not go together,
            or its labels are those of no known task.
    """
    if layout in LABELLED:
        return _task_conversion(layout, dataset, columns, conversational)
    if layout == TOKENIZED:
        reads = [column for column in (*layout.required, *layout.optional) if column in columns]
        return Conversion(_keep_tokens, {c: columns[c] for c in reads}, tuple(reads))
    if layout in PAIRS:
        convert, features, chat = _pair_conversion(layout, conversational)
    elif layout == PROMPT_COMPLETION:
        convert, features, chat = _prompt_conversion(dataset, columns)
    elif layout in (MESSAGES, SHARE_GPT):
        convert, features, chat = _convert_chat, {"messages": CHAT}, True
    else:
        (column,) = layout.required
        convert, features, chat = _text_conversion(column)
    if chat and not conversational:
        raise ValueError(
            f"{layout.name} holds messages, but the tokenizer has no chat template; "
            "name one with chat_template_path"
        )
    optional = [c for c in layout.optional if c in columns and (chat or c not in CHAT_OPTIONS)]
    return _with_options(Conversion(convert, features, (*layout.required, *optional)))


def _with_options(conversion: Conversion) -> Conversion:
    """The same conversion, with what a record says to its chat template."""
    options = {column: _OPTIONS[column] for column in conversion.reads if column in _OPTIONS}

    def convert(row: Row) -> Row | None:
        converted = conversion.convert(row)
        if converted is None:
            return None
        return {**converted, **{column: read(row[column]) for column, read in options.items()}}

    features = {**conversion.features, **dict.fromkeys(options, ExactJson())}
    return conversion._replace(convert=convert, features=features)


def _keep_tokens(row: Row) -> Row | None:
    return row if row["input_ids"] else None


def _text_conversion(column: str) -> tuple[Convert, Row, bool]:
    def convert(row: Row) -> Row | None:
        text = as_text(row[column], column)
        return {column: text} if text.strip() else None

    return convert, {column: Value("string")}, False


def _convert_chat(row: Row) -> Row | None:
    """Messages, or a ShareGPT conversation, with the system message that stands beside it."""
    messages = row["messages"] if "messages" in row else from_share_gpt(row["conversations"])
    if not is_answered(messages):
        return None
    return {"messages": with_system(messages, _system(row))}


def _system(row: Row) -> str:
    return as_text(row.get("system"), "system")


def _prompt_conversion(dataset: AnyDataset, columns: Features) -> tuple[Convert, Row, bool]:
    """Prompt and completion stay as they are, both messages or both text."""
    names = ("prompt", "completion")
    prompt, completion = (
        "messages" if _holds_messages(dataset, name, columns[name]) else "text" for name in names
    )
    if prompt != completion:
        raise ValueError(f"prompt holds {prompt} but completion {completion}; make both the same")
    if prompt == "messages":
        return _keep_conversational_pair, dict.fromkeys(names, CHAT), True
    return _keep_plain_pair, dict.fromkeys(names, Value("string")), False


def _holds_messages(dataset: AnyDataset, column: str, feature: Any) -> bool:
    """Whether a column holds lists; where it may hold anything, its first value tells."""
    if not isinstance(feature, Json):
        return isinstance(feature, List | LargeList)
    first = next((row[column] for row in dataset if row[column] is not None), None)
    return isinstance(first, list)


def _keep_conversational_pair(row: Row) -> Row | None:
    prompt, completion = row["prompt"], row["completion"]
    is_answered(prompt)  # Refuses what are no messages.
    if not prompt or not is_answered(completion):
        return None
    return {"prompt": with_system(prompt, _system(row)), "completion": completion}


def _keep_plain_pair(row: Row) -> Row | None:
    prompt, completion = (as_text(row[c], c) for c in ("prompt", "completion"))
    if not prompt.strip() or not completion.strip():
        return None
    return {"prompt": continued_prompt(prompt, _system(row)), "completion": completion}


def _pair_conversion(layout: Layout, conversational: bool) -> tuple[Convert, Row, bool]:
    """A pair becomes prompt and completion, conversational or plain."""
    about = next((column for column in layout.optional if column in ABOUT), "")

    def convert(row: Row) -> Row | None:
        asked, answer = (as_text(row[column], column) for column in layout.required)
        text = as_text(row.get(about), about)
        history = as_turns(row.get("history"))
        return _as_pair(conversational, asked, answer, text, _system(row), history)

    return convert, _pair_features(conversational), conversational


def _task_conversion(
    layout: Layout, dataset: AnyDataset, columns: Features, conversational: bool
) -> Conversion:
    """A labelled record becomes a question and the word of its label."""
    names = label_names(dataset, columns[LABEL])
    task = find_task(layout, names)
    ordered = names if isinstance(columns[LABEL], ClassLabel) else None

    def convert(row: Row) -> Row | None:
        asked = question_of(task, row, as_text)
        return _as_pair(conversational, asked, answer_word(task, row[LABEL], ordered))

    return Conversion(convert, _pair_features(conversational), layout.required)


def _pair_features(conversational: bool) -> Row:
    return dict.fromkeys(("prompt", "completion"), CHAT if conversational else Value("string"))


def _as_pair(
    conversational: bool,
    asked: str,
    answer: str,
    text: str = "",
    system: str = "",
    history: Sequence[Turn] = (),
) -> Row | None:
    """Prompt and completion, ``None`` where nothing is asked or answered."""
    if not asked.strip() or not answer.strip():
        return None
    if not conversational:
        return {"prompt": plain_prompt(asked, text, system, history), "completion": answer}
    return {
        "prompt": chat_prompt(asked, text, system, history),
        "completion": [{"role": "assistant", "content": answer}],
    }
