"""Data sets one after the other, or by turns, where their columns and types agree."""

from collections.abc import Sequence
from typing import Any

from datasets import Features, Value, concatenate_datasets, interleave_datasets

from colm.data.conversions import CHAT, AnyDataset
from colm.data.exact_json import ExactJson
from colm.data.layouts import CHAT_OPTIONS

#: Attribute of a stream that was made by drawing from several by given shares.
_DRAWN = "colm_drawn_by_shares"


def join_data_sets(
    paths: Sequence[str],
    parts: Sequence[AnyDataset],
    shares: Sequence[float] | None = None,
    seed: int = 0,
) -> AnyDataset:
    """Return one data set made of several.

    Chats go together whichever of them have tools or options of their template.

    Args:
        paths: Where each is from, for messages.
        parts: At least one.
        shares: Of the records of each, where they are to come by turns, at random; a part that
            ends before others begins anew, and those of no share are left out.
        seed: Of the turns.

    Returns:
        The records of all, in order or by turns.

    Raises:
        ValueError: They differ in a column.
    """
    parts = _with_chat_options(parts)
    first, first_path = parts[0], paths[0]
    for path, part in zip(paths, parts, strict=True):
        if part.features is None or first.features is None:
            continue
        differing = [
            column
            for column in (*first.features, *part.features)
            if first.features.get(column) != part.features.get(column)
        ]
        if differing:
            raise ValueError(
                f"{first_path} and {path} do not go together: {_describe(first, differing[0])} "
                f"in the first and {_describe(part, differing[0])} in the second"
                f"{_advice(first.features, part.features)}"
            )
    if shares is not None:
        return _by_turns(parts, shares, seed)
    return concatenate_datasets(list(parts)) if len(parts) > 1 else first


def _by_turns(parts: Sequence[AnyDataset], shares: Sequence[float], seed: int) -> AnyDataset:
    """The records of several data sets, each drawn from one of them at random."""
    drawn = [(part, share) for part, share in zip(parts, shares, strict=True) if share > 0]
    total = sum(share for _, share in drawn)
    joined = interleave_datasets(
        [part for part, _ in drawn],
        probabilities=[share / total for _, share in drawn],
        seed=seed,
        stopping_strategy="all_exhausted",
    )
    setattr(joined, _DRAWN, True)
    return joined


def is_drawn_by_shares(dataset: Any) -> bool:
    """Tell whether a data set was made by drawing from several by given shares."""
    return bool(getattr(dataset, _DRAWN, False))


def keep_drawn(before: Any, after: Any) -> None:
    """Let a data set that was made of another be known as drawn where that is."""
    if is_drawn_by_shares(before):
        setattr(after, _DRAWN, True)


def _with_chat_options(parts: Sequence[AnyDataset]) -> list[AnyDataset]:
    """The parts, each with the columns of tools and template options that any formatted one has."""
    wanted: dict[str, Any] = {
        column: {} if column == "chat_template_kwargs" else None
        for column in CHAT_OPTIONS
        if any(part.features and part.features.get(column) == ExactJson() for part in parts)
    }

    def complete(part: AnyDataset) -> AnyDataset:
        missing = {c: v for c, v in wanted.items() if part.features and c not in part.features}
        if not missing:
            return part
        features = Features({**part.features, **dict.fromkeys(missing, ExactJson())})
        return part.map(lambda _: missing, features=features)

    return [complete(part) for part in parts]


def _advice(first: Features, second: Features) -> str:
    """What brings two kinds of records together, where columns as they are written do not tell."""
    kinds = {
        (column, features[column] == CHAT)
        for features in (first, second)
        for column in ("messages", "prompt")
        if column in features
    }
    if kinds == {("prompt", True), ("prompt", False)}:
        return (
            ". Columns such as question and answer become messages, while text in prompt and "
            "completion stays text without a chat template: call these question and answer as well"
        )
    if kinds == {("messages", True), ("prompt", True)}:
        return (
            ". Only the answer of a pair is trained on, but all of messages: make pairs of the "
            "messages, the last one in completion and those before it in prompt, both as lists"
        )
    return ""


def _describe(dataset: AnyDataset, column: str) -> str:
    feature = dataset.features.get(column)
    if feature is None:
        return f"no column '{column}'"
    known = "text" if feature == Value("string") else "messages" if feature == CHAT else feature
    return f"column '{column}' is {known}"
