"""Which record a chat template refuses: no system role, roles out of turn, content in parts.

The libraries say what the template said, and not of which record. Looking for it takes another
reading of the data, so that is done once something went wrong.
"""

import json
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

#: Column of the number, from 1, of each record in its file.
RECORD = "number of the record"
#: Looks at the records of a data set that carry their numbers.
Check = Callable[[Any], None]


def numbered(dataset: Any) -> Any:
    """Return a data set with the number of each record.

    Args:
        dataset: A ``Dataset`` or an ``IterableDataset`` as it was read.

    Returns:
        The same with the column ``RECORD``.
    """
    return dataset.map(lambda _, index: {RECORD: index + 1}, with_indices=True)


@contextmanager
def refused_records_named(tokenizer: Any, read: Callable[[Check], object]) -> Iterator[None]:
    """Name the record, where a chat template refuses one.

    Args:
        tokenizer: With the chat template.
        read: Reads the data again, and calls what it is given with the records of each file,
            formatted and numbered; adds to an error which file that was.

    Raises:
        ValueError: The record that the template refuses, and what it said.
    """
    try:
        yield
    except Exception as error:
        # Templates raise errors of any kind; of several processes only the text comes back.
        if "apply_chat_template" in "".join(traceback.format_exception(error)):
            read(lambda records: check_records(records, tokenizer))
        raise


def check_records(records: Any, tokenizer: Any) -> None:
    """Refuse records that the chat template does.

    Args:
        records: Formatted and numbered.
        tokenizer: With the chat template.

    Raises:
        ValueError: The number of the first such record, and what the template said.
    """
    for record in records:
        try:
            _render(record, tokenizer)
        except Exception as error:  # whatever it raises is what it says of the record
            said = str(error) or type(error).__name__
            raise ValueError(
                f"record {record[RECORD]}: the chat template cannot take it: {said}"
            ) from error


def _render(record: Mapping[str, Any], tokenizer: Any) -> None:
    """Put a record through the template as ``SFTTrainer`` does."""
    tools = record.get("tools")
    options = {
        "tools": json.loads(tools) if isinstance(tools, str) else tools,
        **(record.get("chat_template_kwargs") or {}),
    }
    prompt, messages = record.get("prompt"), record.get("messages")
    if isinstance(prompt, list):
        tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False, **options)
        messages = [*prompt, *record["completion"]]
    if isinstance(messages, list):
        tokenizer.apply_chat_template(messages, tokenize=False, **options)
