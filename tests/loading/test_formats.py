"""Layouts: each becomes what TRL takes, nothing is made up, and what is empty is counted."""

import pytest
from datasets import Dataset, Features, IterableDataset, Json, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from colm.data import LAYOUTS, chat_prompt, find_layout, format_dataset, plain_prompt


def message(role: str, content: str | None) -> dict:
    return {"role": role, "content": content}


ASKED = [message("user", "Why?")]
ANSWERED = [message("assistant", "Because.")]

# What a record is, and what it becomes with and without a chat template (None: refused).
CASES = {
    "plain prompt": (
        {"prompt": "Why?", "completion": " Because."},
        {"prompt": "Why?", "completion": " Because."},
        {"prompt": "Why?", "completion": " Because."},
    ),
    "conversational prompt": (
        {"prompt": ASKED, "completion": ANSWERED},
        {"prompt": ASKED, "completion": ANSWERED},
        None,
    ),
    "messages": ({"messages": ASKED + ANSWERED}, {"messages": ASKED + ANSWERED}, None),
    "ShareGPT": (
        {
            "conversations": [
                {"from": "human", "value": "Why?"},
                {"from": "gpt", "value": "Because."},
            ]
        },
        {"messages": ASKED + ANSWERED},
        None,
    ),
    "conversations with roles": (
        {"conversations": [message("system", "Be brief."), *ASKED, *ANSWERED]},
        {"messages": [message("system", "Be brief."), *ASKED, *ANSWERED]},
        None,
    ),
    "instruction": (
        {"instruction": "Why?", "output": "Because."},
        {"prompt": ASKED, "completion": ANSWERED},
        {"prompt": "### Instruction:\nWhy?\n\n### Response:\n", "completion": "Because."},
    ),
    "instruction with input": (
        {"instruction": "Add.", "input": "1, 2", "output": "3", "text": "the whole of it"},
        {"prompt": [message("user", "Add.\n\n1, 2")], "completion": [message("assistant", "3")]},
        {
            "prompt": "### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:\n",
            "completion": "3",
        },
    ),
    "instruction with system": (
        {"system": "Be brief.", "instruction": "Why?", "input": "", "output": "Because."},
        {"prompt": [message("system", "Be brief."), *ASKED], "completion": ANSWERED},
        {
            "prompt": "Be brief.\n\n### Instruction:\nWhy?\n\n### Response:\n",
            "completion": "Because.",
        },
    ),
    "question": (
        {"question": "Why?", "answer": "Because."},
        {"prompt": ASKED, "completion": ANSWERED},
        {"prompt": "### Instruction:\nWhy?\n\n### Response:\n", "completion": "Because."},
    ),
    "number as answer": (
        {"question": "2 + 2?", "answer": 4},
        {"prompt": [message("user", "2 + 2?")], "completion": [message("assistant", "4")]},
        {"prompt": "### Instruction:\n2 + 2?\n\n### Response:\n", "completion": "4"},
    ),
    "number as completion": (
        {"prompt": "2 + 2 = ", "completion": 4.5},
        {"prompt": "2 + 2 = ", "completion": "4.5"},
        {"prompt": "2 + 2 = ", "completion": "4.5"},
    ),
    "text": ({"text": "All of it."}, {"text": "All of it."}, {"text": "All of it."}),
    "tokens": (
        {"input_ids": [1, 2], "labels": [-100, 2], "text": "ab"},
        {"input_ids": [1, 2], "labels": [-100, 2]},
        {"input_ids": [1, 2], "labels": [-100, 2]},
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("conversational", [True, False])
@pytest.mark.parametrize("streamed", [False, True])
def test_each_layout_becomes_what_trl_takes(
    name: str, conversational: bool, streamed: bool
) -> None:
    record, chat, plain = CASES[name]
    expected = chat if conversational else plain
    dataset = Dataset.from_list([{**record, "source": "s", "useless": 1.5}])
    dataset = dataset.to_iterable_dataset() if streamed else dataset
    if expected is None:
        with pytest.raises(ValueError, match="has no chat template"):
            format_dataset(dataset, conversational=conversational)
        return
    formatted = format_dataset(dataset, conversational=conversational, kept_columns=["source"])
    assert list(formatted.dataset) == [{**expected, "source": "s"}]
    assert formatted.skipped == 0
    again = format_dataset(
        formatted.dataset, conversational=conversational, kept_columns=["source"]
    )
    assert list(again.dataset) == list(formatted.dataset)


EMPTY = {
    "prompt": [
        {"prompt": None, "completion": "x"},
        {"prompt": "x", "completion": ""},
        {"prompt": " \n", "completion": "x"},
    ],
    "conversational prompt": [
        {"prompt": ASKED, "completion": []},
        {"prompt": [], "completion": ANSWERED},
        {"prompt": ASKED, "completion": [message("assistant", " ")]},
        {"prompt": None, "completion": None},
    ],
    "messages": [
        {"messages": []},
        {"messages": None},
        {"messages": ASKED},
        {"messages": [message("assistant", None)]},
    ],
    "ShareGPT": [{"conversations": []}, {"conversations": [{"from": "human", "value": "x"}]}],
    "instruction": [
        {"instruction": "x", "input": "y", "output": None},
        {"instruction": "", "input": "y", "output": "x"},
    ],
    "text": [{"text": None}, {"text": "\t"}],
    "tokens": [{"input_ids": [], "labels": []}],
}


@pytest.mark.parametrize("name", EMPTY)
def test_records_that_hold_nothing_are_left_out_and_counted(name: str) -> None:
    full = {"tokens": "tokens", "prompt": "plain prompt", "instruction": "instruction with input"}
    good, expected, _ = CASES[full.get(name, name)]
    good = {key: value for key, value in good.items() if key in EMPTY[name][0]}
    rows = [*EMPTY[name], good, *EMPTY[name]]
    formatted = format_dataset(Dataset.from_list(rows), conversational=True)
    assert formatted.dataset.to_list() == [expected]
    assert formatted.skipped == 2 * len(EMPTY[name])
    streamed = Dataset.from_list(rows).to_iterable_dataset()
    assert list(format_dataset(streamed, conversational=True).dataset) == [expected]
    with pytest.raises(ValueError, match=rf"each of the {len(EMPTY[name])} records is empty"):
        format_dataset(
            Dataset.from_list(EMPTY[name], features=Dataset.from_list(rows).features),
            conversational=True,
        )


def test_a_call_of_a_tool_is_an_answer() -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "add"}]}
    rows = [{"messages": [{**ASKED[0], "tool_calls": None}, call], "tools": "[]"}]
    formatted = format_dataset(Dataset.from_list(rows), conversational=True)
    assert formatted.dataset.to_list() == rows


SYSTEM = message("system", "Be brief.")
BEFORE = [message("user", "2 + 2?"), message("assistant", "4")]
# What stands beside a layout's columns, and what becomes of it with a chat template and without.
BESIDE = {
    "system beside messages": (
        {"messages": ASKED + ANSWERED, "system": "Be brief."},
        {"messages": [SYSTEM, *ASKED, *ANSWERED]},
        None,
    ),
    "system beside a conversation": (
        {"conversations": [{"from": "human", "value": "Why?"}, *ANSWERED], "system": "Be brief."},
        {"messages": [SYSTEM, *ASKED, *ANSWERED]},
        None,
    ),
    "system beside messages that have one": (
        {"messages": [message("system", "Sing."), *ASKED, *ANSWERED], "system": "Be brief."},
        {"messages": [message("system", "Sing."), *ASKED, *ANSWERED]},
        None,
    ),
    "system beside a prompt of messages": (
        {"prompt": ASKED, "completion": ANSWERED, "system": "Be brief."},
        {"prompt": [SYSTEM, *ASKED], "completion": ANSWERED},
        None,
    ),
    "system beside a plain prompt": (
        {"prompt": "Why?", "completion": " Because.", "system": "Be brief."},
        {"prompt": "Be brief.\n\nWhy?", "completion": " Because."},
        {"prompt": "Be brief.\n\nWhy?", "completion": " Because."},
    ),
    "history beside an instruction": (
        {
            "system": "Be brief.",
            "instruction": "Why?",
            "output": "Because.",
            "history": [["2 + 2?", "4"]],
        },
        {"prompt": [SYSTEM, *BEFORE, *ASKED], "completion": ANSWERED},
        {
            "prompt": "Be brief.\n\n### Instruction:\n2 + 2?\n\n### Response:\n4\n\n"
            "### Instruction:\nWhy?\n\n### Response:\n",
            "completion": "Because.",
        },
    ),
    "history as text": (
        {"query": "Why?", "response": "Because.", "history": '[["2 + 2?", 4]]'},
        {"prompt": [*BEFORE, *ASKED], "completion": ANSWERED},
        {
            "prompt": "### Instruction:\n2 + 2?\n\n### Response:\n4\n\n"
            "### Instruction:\nWhy?\n\n### Response:\n",
            "completion": "Because.",
        },
    ),
    "nothing beside a problem": (
        {"problem": "Why?", "solution": "Because.", "history": None, "system": None},
        {"prompt": ASKED, "completion": ANSWERED},
        {"prompt": "### Instruction:\nWhy?\n\n### Response:\n", "completion": "Because."},
    ),
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("conversational", [True, False])
@pytest.mark.parametrize("streamed", [False, True])
def test_what_stands_beside_enters_the_conversation(
    name: str, conversational: bool, streamed: bool
) -> None:
    record, chat, plain = BESIDE[name]
    dataset = Dataset.from_list([record], on_mixed_types="use_json")
    dataset = dataset.to_iterable_dataset() if streamed else dataset
    expected = chat if conversational else plain
    if expected is None:
        with pytest.raises(ValueError, match="has no chat template"):
            format_dataset(dataset, conversational=conversational)
        return
    assert list(format_dataset(dataset, conversational=conversational).dataset) == [expected]


# A column for each layout that it has no use for, and whether the tokenizer has a chat template.
UNUSED = [
    ({"prompt": "a", "completion": "b"}, ["history", "level"], True),
    ({"prompt": "a", "completion": "b"}, ["tools"], False),
    ({"messages": ASKED + ANSWERED}, ["history", "id"], True),
    ({"conversations": ANSWERED}, ["prompt"], True),
    ({"instruction": "a", "output": "b"}, ["context", "text"], True),
    ({"instruction": "a", "output": "b"}, ["chat_template_kwargs"], False),
    ({"question": "a", "answer": "b"}, ["input"], True),
    ({"query": "a", "response": "b"}, ["input"], True),
    ({"text": "a"}, ["system", "history"], True),
    ({"input_ids": [1]}, ["system"], True),
    ({"sentence": "a", "label": 1}, ["idx", "system"], True),
]


@pytest.mark.parametrize(("record", "unused", "conversational"), UNUSED)
@pytest.mark.parametrize("streamed", [False, True])
def test_columns_that_are_not_used_are_named(
    record: dict, unused: list[str], conversational: bool, streamed: bool
) -> None:
    rows = Dataset.from_list([{**record, "source": "s", **dict.fromkeys(unused, "x")}])
    rows = rows.to_iterable_dataset() if streamed else rows
    formatted = format_dataset(rows, conversational=conversational, kept_columns=["source"])
    (remark,) = formatted.remarks
    assert "not used" in remark
    assert remark.endswith(" " + ", ".join(unused))
    assert not set(unused) & set(next(iter(formatted.dataset)))


def test_where_all_is_used_nothing_is_said() -> None:
    rows = Dataset.from_list([{"instruction": "a", "output": "b", "system": "c", "source": "s"}])
    assert format_dataset(rows, conversational=True, kept_columns=["source"]).remarks == ()


def test_keys_of_messages_that_are_not_used_are_named() -> None:
    said = {"from": "gpt", "value": "Because.", "weight": 0, "markdown": None}
    formatted = format_dataset(Dataset.from_list([{"conversations": [said]}]), conversational=True)
    assert len(formatted.remarks) == 1
    assert "weight" in formatted.remarks[0]
    assert "markdown" not in formatted.remarks[0]


def test_messages_in_a_conversation_keep_their_calls() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]}
    formatted = format_dataset(Dataset.from_list([{"conversations": [call]}]), conversational=True)
    assert list(formatted.dataset) == [{"messages": [call]}]


def test_template_options_are_never_nothing() -> None:
    rows = [
        {"messages": ANSWERED, "chat_template_kwargs": {"thinking": False}, "tools": None},
        {"messages": ANSWERED, "chat_template_kwargs": None, "tools": [{"name": "add"}]},
        {"messages": ANSWERED, "chat_template_kwargs": '{"a": 1.84}', "tools": " "},
    ]
    dataset = Dataset.from_list(rows, on_mixed_types="use_json")
    formatted = format_dataset(dataset, conversational=True).dataset
    assert formatted["chat_template_kwargs"][:] == [{"thinking": False}, {}, {"a": 1.84}]
    assert formatted["tools"][:] == [None, [{"name": "add"}], None]


@pytest.mark.parametrize("value", [float("nan"), None])
@pytest.mark.parametrize("column", ["answer", "question"])
def test_nan_is_nothing(value: float | None, column: str) -> None:
    rows = [{"question": 1.5, "answer": 2.5}, {"question": 1.5, "answer": 2.5, column: value}]
    formatted = format_dataset(Dataset.from_list(rows), conversational=False)
    assert formatted.skipped == 1
    assert formatted.dataset["completion"][:] == ["2.5"]


def test_a_number_is_spelled_as_its_column_holds_it() -> None:
    features = Features({"question": Value("string"), "answer": Value("float32")})
    rows = Dataset.from_dict({"question": ["x"] * 3, "answer": [0.1, 1.84, 5.0]}, features=features)
    formatted = format_dataset(rows, conversational=False)
    assert formatted.dataset["completion"][:] == ["0.1", "1.84", "5.0"]


def test_json_that_datasets_read_is_spelled_as_it_was() -> None:
    features = Features({"prompt": Value("string"), "completion": Json()})
    rows = Dataset.from_dict(
        {"prompt": ["x"] * 3, "completion": [1.84, 5, "05"]}, features=features
    )
    formatted = format_dataset(rows, conversational=False)
    assert formatted.dataset["completion"][:2] == ["1.84", "5"]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"question": "x", "answer": ["a"]}, r"record 2: answer is not text but \['a'\]"),
        ({"question": "x", "answer": float("inf")}, "record 2: answer is no finite number"),
        ({"question": "x", "answer": "y", "history": "[1"}, "record 2: history is not JSON"),
        ({"question": "x", "answer": "y", "history": "[[1]]"}, "record 2: history is not pairs"),
        ({"question": "x", "answer": "y", "history": ["a"]}, "record 2: history is not pairs"),
        ({"messages": ANSWERED, "tools": "{}"}, "record 2: tools are not a list"),
        ({"messages": ANSWERED, "tools": "x"}, "record 2: tools is not JSON"),
        ({"messages": ANSWERED, "chat_template_kwargs": "[]"}, "record 2: .* is not an object"),
        ({"messages": "hello"}, "record 2: messages are not a list but 'hello'"),
        ({"conversations": "hello"}, "record 2: a conversation is not a list but 'hello'"),
        ({"text": {"a": 1}}, "record 2: text is not text but {'a': 1}"),
        ({"messages": ["hello"]}, "record 2: a message is not an object but 'hello'"),
        ({"conversations": ["hello"]}, "record 2: a message is not an object but 'hello'"),
        ({"conversations": [{"from": "bot", "value": "x"}]}, "record 2: a message is from 'bot'"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_with_its_record(row: dict, complaint: str) -> None:
    empty = dict.fromkeys(row)
    with pytest.raises(ValueError, match=complaint):
        format_dataset(Dataset.from_list([empty, row]), conversational=True)


def test_prompt_and_completion_must_be_of_one_kind() -> None:
    rows = Dataset.from_list([{"prompt": ASKED, "completion": "Because."}])
    with pytest.raises(ValueError, match="prompt holds messages but completion text"):
        format_dataset(rows, conversational=True)


def test_an_unknown_layout_names_what_is_there_and_what_could_be() -> None:
    with pytest.raises(ValueError, match="columns a, b; expected one of: ") as raised:
        find_layout(["a", "b"])
    assert all(layout.name in str(raised.value) for layout in LAYOUTS)


def test_the_first_layout_wins_unless_a_text_column_is_named() -> None:
    columns = ["text", "body", "instruction", "output", "prompt", "completion", "messages"]
    assert find_layout(columns).name == "prompt + completion"
    assert find_layout(columns[:4]).name == "instruction + output"
    assert find_layout(columns, "body").name == "body"
    assert find_layout(columns, "missing").name == "prompt + completion"
    rows = Dataset.from_list([{"body": "b", "text": "t"}])
    formatted = format_dataset(rows, conversational=False, text_column="body")
    assert formatted.dataset.to_list() == [{"body": "b"}]


def test_a_stream_whose_columns_are_unknown() -> None:
    def rows():
        yield {"question": "Why?", "answer": None, "source": "s"}
        yield {"question": "Why?", "answer": "Because.", "source": "s"}

    stream = IterableDataset.from_generator(rows)
    assert stream.features is None
    formatted = format_dataset(stream, conversational=True, kept_columns=["source"])
    assert list(formatted.dataset) == [{"prompt": ASKED, "completion": ANSWERED, "source": "s"}]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), min_size=1, max_size=8))
def test_pairs_keep_their_order_and_nothing_else_is_lost(pairs: list[tuple[str, str]]) -> None:
    dataset = Dataset.from_list([{"question": q, "answer": a} for q, a in pairs])
    full = [(q, a) for q, a in pairs if q.strip() and a.strip()]
    if not full:
        with pytest.raises(ValueError, match="is empty in question"):
            format_dataset(dataset, conversational=True)
        return
    formatted = format_dataset(dataset, conversational=True)
    got = [
        (row["prompt"][0]["content"], row["completion"][0]["content"]) for row in formatted.dataset
    ]
    assert got == full
    assert formatted.skipped == len(pairs) - len(full)


def test_prompts_hold_braces_and_blank_parts_as_they_are() -> None:
    assert plain_prompt("{input} {x}", "{y}").count("{") == 3
    assert plain_prompt("q", " ") == plain_prompt("q")
    assert chat_prompt("q", " ", "\n") == [message("user", "q")]
