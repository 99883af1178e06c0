"""Mixtures: every record keeps the name of its source, whatever the sources are made of."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset, IterableDataset

from colm.data import (
    Source,
    format_dataset,
    load_mixture,
    load_splits,
    named_files,
    source_counts,
    source_name,
)

TURNS = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello!"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files: algebra (6), logic (4), and mixed (2 + 1) with sources of its own."""
    write(tmp_path / "algebra.jsonl", [{"prompt": f"a{i}", "completion": "x"} for i in range(6)])
    write(tmp_path / "logic.jsonl", [{"prompt": f"l{i}", "completion": "y"} for i in range(4)])
    mixed = [{"prompt": f"m{i}", "completion": "z", "source": "pq"[i == 2]} for i in range(3)]
    write(tmp_path / "mixed.jsonl", mixed)
    return tmp_path


def write(path: Path, records: list[dict]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(json.dumps(record) for record in records))
    return path


def entries(folder: Path, *names: str, **fields) -> list[Source]:
    return [Source(str(folder / f"{name}.jsonl"), **fields) for name in names]


def test_records_follow_each_other_with_the_name_of_their_file(folder: Path) -> None:
    mixture = load_mixture(entries(folder, "logic", "algebra"))
    assert mixture["prompt"][:] == [f"l{i}" for i in range(4)] + [f"a{i}" for i in range(6)]
    assert mixture["source"][:] == ["logic"] * 4 + ["algebra"] * 6


def test_whatever_has_the_attributes_is_an_entry(folder: Path) -> None:
    fields = {"name": None, "data_dir": None, "data_files": None, "split": "train"}
    entry = SimpleNamespace(path=str(folder / "logic.jsonl"), **fields, columns=None, fraction=None)
    assert source_counts(load_mixture([entry])) == {"logic": 4}


def test_a_file_keeps_its_own_sources_unless_it_is_given_a_name(folder: Path) -> None:
    assert source_counts(load_mixture(entries(folder, "mixed"))) == {"p": 2, "q": 1}
    both = load_mixture([*entries(folder, "mixed"), *entries(folder, "logic", name="puzzles")])
    assert source_counts(both) == {"puzzles": 4, "p": 2, "q": 1}
    assert source_counts(load_mixture(entries(folder, "mixed", name="one"))) == {"one": 3}


def test_the_source_column_can_have_another_name(folder: Path) -> None:
    mixture = load_mixture(entries(folder, "logic", "algebra"), source_column="kind")
    assert source_counts(mixture, "kind") == {"algebra": 6, "logic": 4}
    with pytest.raises(
        ValueError,
        match=r"logic\.jsonl: no source column 'kind'; the columns are prompt, completion",
    ):
        load_mixture(entries(folder, "logic"), source_column="kind")


def test_two_files_of_one_name_need_names(folder: Path) -> None:
    write(folder / "more" / "logic.jsonl", [{"prompt": "n", "completion": "y"}])
    two = [*entries(folder, "logic"), *entries(folder / "more", "logic")]
    with pytest.raises(ValueError, match="would both be called 'logic'; give each a name"):
        load_mixture(two)
    two[1].name = "logic"
    assert source_counts(load_mixture(two)) == {"logic": 5}
    twice = entries(folder, "logic", "logic")
    twice[0].split, twice[1].split = "train[:1]", "train[3:]"
    assert load_mixture(twice)["prompt"][:] == ["l0", "l3"]


def test_columns_are_taken_with_the_source(folder: Path) -> None:
    mixture = load_mixture(entries(folder, "mixed", columns=["prompt"]))
    assert set(mixture.column_names) == {"prompt", "source"}
    assert source_counts(mixture) == {"p": 2, "q": 1}
    with pytest.raises(ValueError, match="no column 'text'; the columns are prompt, completion"):
        load_mixture(entries(folder, "logic", columns=["prompt", "text"]))


@pytest.mark.parametrize(
    ("fractions", "kept"),
    [((0.5, 0.5), (4, 4)), ((3, 1), (6, 2)), ((0.25, 0.75), (1, 4)), ((1, 0), (6, 0))],
)
def test_fractions_are_shares_of_the_largest_mixture(folder: Path, fractions, kept) -> None:
    mixed = entries(folder, "algebra", "logic")
    for entry, fraction in zip(mixed, fractions, strict=True):
        entry.fraction = fraction
    prompts = [f"a{i}" for i in range(kept[0])] + [f"l{i}" for i in range(kept[1])]
    assert load_mixture(mixed)["prompt"][:] == prompts


def test_fractions_that_make_no_sense(folder: Path) -> None:
    mixed = entries(folder, "algebra", "logic")
    mixed[0].fraction = 0.5
    with pytest.raises(ValueError, match="for every data set of a mixture or for none"):
        load_mixture(mixed)
    mixed[1].fraction = -1
    with pytest.raises(ValueError, match=r"fractions must be positive, got 0\.5, -1"):
        load_mixture(mixed)
    mixed[1].fraction = 0.5
    with pytest.raises(ValueError, match="a stream does not tell"):
        load_mixture(mixed, streaming=True)


def test_each_data_set_is_prepared_before_they_are_joined(folder: Path) -> None:
    write(folder / "sums.jsonl", [{"question": "2 + 2?", "answer": "4", "level": 1}])
    seen = []

    def prepare(dataset, name):
        seen.append(name)
        return format_dataset(dataset, conversational=False, kept_columns=["source"]).dataset

    mixture = load_mixture(entries(folder, "logic", "sums"), prepare=prepare)
    assert seen == ["logic", "sums"]
    assert set(mixture.column_names) == {"prompt", "completion", "source"}
    assert mixture[-1]["completion"] == "4"
    with pytest.raises(ValueError, match=r"together: .* and no column 'prompt' in the second"):
        load_mixture(entries(folder, "logic", "sums"))


def test_kinds_of_a_column_must_agree(folder: Path) -> None:
    asked = [{"role": "user", "content": "?"}]
    write(folder / "chat.jsonl", [{"prompt": asked, "completion": asked}])
    with pytest.raises(
        ValueError, match="column 'prompt' is text in the first and column 'prompt' is"
    ):
        load_mixture(entries(folder, "logic", "chat"))


@pytest.mark.parametrize(
    ("record", "advice", "mended"),
    [
        (
            {"messages": TURNS},
            "make pairs of the messages",
            {"prompt": TURNS[:-1], "completion": TURNS[-1:]},
        ),
        (
            {"prompt": "Hello?", "completion": "Hello!"},
            "call these question and answer",
            {"question": "Hello?", "answer": "Hello!"},
        ),
    ],
    ids=["messages", "text"],
)
def test_what_does_not_go_with_questions_and_answers_does_as_the_error_says(
    folder: Path, record, advice, mended
) -> None:
    def prepare(dataset, name):
        return format_dataset(dataset, conversational=True, kept_columns=["source"]).dataset

    write(folder / "sums.jsonl", [{"question": "2 + 2?", "answer": "4"}])
    write(folder / "greetings.jsonl", [record])
    mixed = entries(folder, "greetings", "sums")
    with pytest.raises(ValueError, match=advice):
        load_mixture(mixed, prepare=prepare)
    write(folder / "greetings.jsonl", [mended])
    assert load_mixture(mixed, prepare=prepare)["completion"][0] == TURNS[-1:]


def test_a_folder_is_loaded_by_datasets(folder: Path) -> None:
    for split in ("train", "test"):
        write(folder / "geometry" / f"{split}.jsonl", [{"prompt": split, "completion": "!"}] * 2)
    path = str(folder / "geometry")
    assert source_name(Source(path)) == "geometry"
    mixture = load_mixture([Source(path), Source(path, split="test"), *entries(folder, "logic")])
    assert source_counts(mixture) == {"geometry": 4, "logic": 4}
    assert mixture["prompt"][:4] == ["train", "train", "test", "test"]
    assert {name: len(part) for name, part in load_splits(path).items()} == {"train": 2, "test": 2}
    (folder / "geometry" / "test.jsonl").write_text('{"prompt": "x"}\n{"prompt": \n')
    with pytest.raises(ValueError, match=r"geometry/test\.jsonl:2: not valid JSON"):
        load_splits(path)


def test_builders_of_datasets_are_sources_too(folder: Path) -> None:
    files = str(folder / "logic.jsonl")
    assert len(load_mixture([Source("json", data_files=files)])) == 4
    broken = write(folder / "broken.jsonl", [])
    broken.write_text('{"prompt": "x"}\nx\n')
    for data_files in (str(broken), [files, str(broken)], {"train": str(broken)}):
        with pytest.raises(ValueError, match=r"broken\.jsonl:2: not valid JSON"):
            load_mixture([Source("json", data_files=data_files)])


def test_what_cannot_be_loaded_is_named(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.jsonl: no such file"):
        load_mixture(entries(folder, "nothing"))
    with pytest.raises(ValueError, match="cannot load data set 'nobody/nothing': "):
        load_mixture([Source("nobody/nothing")])
    with pytest.raises(ValueError, match="cannot load data set 'nobody/nothing': "):
        load_splits("nobody/nothing")
    with pytest.raises(ValueError, match="at least one data set"):
        load_mixture([])


def test_streams_carry_their_sources(folder: Path) -> None:
    mixture = load_mixture(entries(folder, "logic", "mixed"), streaming=True)
    assert isinstance(mixture, IterableDataset)
    assert [row["source"] for row in mixture] == ["logic"] * 4 + ["p", "p", "q"]
    assert isinstance(
        load_splits(str(folder / "logic.jsonl"), streaming=True)["train"], IterableDataset
    )
    assert isinstance(load_splits(str(folder / "logic.jsonl"))["train"], Dataset)


def test_a_pattern_is_every_file_that_matches(folder: Path) -> None:
    write(folder / "more" / "set.jsonl", [{"prompt": "s", "completion": "x"}])
    (folder / "notes.txt").write_text("no data")
    mixture = load_mixture([Source(str(folder / "[al]*.jsonl")), Source(str(folder / "*/*"))])
    assert source_counts(mixture) == {"algebra": 6, "logic": 4, "set": 1}
    assert mixture["prompt"][0] == "a0"
    one = load_mixture([Source(str(folder / "*"), name="one")])
    assert source_counts(one) == {"one": 13}
    deep = load_mixture([Source(str(folder / "**" / "*.jsonl"))])
    assert source_counts(deep) == {"algebra": 6, "logic": 4, "p": 2, "q": 1, "set": 1}


def test_words_of_a_command_line_name_files(folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "a=b.jsonl").write_text((folder / "algebra.jsonl").read_text())
    words = ["a*a.jsonl", "sums=algebra.jsonl", "a=b.jsonl", "all=*.jsonl"]
    found = named_files(words)
    assert [(each.path, each.name) for each in found[:3]] == [
        ("algebra.jsonl", None),
        ("algebra.jsonl", "sums"),
        ("a=b.jsonl", None),
    ]
    assert {each.name for each in found[3:]} == {"all"}
    assert len(found) == 3 + 4
    for word in ("=algebra.jsonl", "sums="):
        with pytest.raises(ValueError, match="expected FILE or NAME=FILE"):
            named_files([word])


def test_a_pattern_that_cannot_be(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"x\*\.jsonl: .*matches"):
        load_mixture([Source(str(folder / "x*.jsonl"))])
    with pytest.raises(ValueError, match="one file an entry, but 3 files match"):
        load_mixture([Source(str(folder / "*.jsonl"), fraction=0.5)])
    write(folder / "more" / "logic.jsonl", [{"prompt": "s", "completion": "x"}])
    with pytest.raises(ValueError, match="would both be called 'logic'"):
        load_mixture([Source(str(folder / "**" / "logic.jsonl"))])


CHATS = {
    "plain": {"messages": [{"role": "assistant", "content": "yes"}]},
    "named": {"messages": [{"content": "yes", "name": "me", "role": "assistant"}]},
    "calls": {
        "messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": 1}}]}],
        "tools": [{"name": "f"}],
    },
    "options": {
        "messages": [{"role": "assistant", "content": "yes"}],
        "chat_template_kwargs": {"thinking": False},
    },
    "text": {"messages": [{"role": "assistant", "content": "yes"}], "tools": '[{"name": "g"}]'},
    "shared": {"conversations": [{"from": "gpt", "value": "yes"}], "tools": None},
}


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("first", CHATS)
def test_chats_that_differ_by_a_key_go_together(
    tmp_path: Path, first: str, streaming: bool
) -> None:
    names = [first, *(name for name in CHATS if name != first)]
    files = [write(tmp_path / f"{name}.jsonl", [CHATS[name]] * 2) for name in names]

    def prepare(dataset, _):
        return format_dataset(dataset, conversational=True, kept_columns=["source"]).dataset

    mixture = load_mixture([Source(str(f)) for f in files], prepare=prepare, streaming=streaming)
    rows = list(mixture)
    assert [row["source"] for row in rows] == [name for name in names for _ in range(2)]
    for row in rows:
        chat = CHATS[row["source"]]
        said = chat.get("messages", [{"role": "assistant", "content": "yes"}])
        assert json.dumps(row["messages"]) == json.dumps(said)
        assert row["tools"] == chat.get("tools")
        assert row["chat_template_kwargs"] == chat.get("chat_template_kwargs", {})


def test_pairs_of_messages_go_with_instructions(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "Why?", "name": "me"}
    write(tmp_path / "a.jsonl", [{"instruction": "Why?", "output": "So."}])
    said = [{"role": "assistant", "content": "So."}]
    write(tmp_path / "b.jsonl", [{"prompt": [asked], "completion": said, "tools": [{"name": "f"}]}])

    def prepare(dataset, _):
        return format_dataset(dataset, conversational=True, kept_columns=["source"]).dataset

    rows = list(load_mixture(entries(tmp_path, "a", "b"), prepare=prepare))
    assert [row["completion"] for row in rows] == [said, said]
    assert rows[1]["prompt"] == [asked]
