"""Files of questions: which columns are what, and one line for what cannot be read."""

import json

import pytest
from datasets import Dataset, Features, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from colm.data import format_dataset, read_file
from colm.evaluation.questions import read_question_set, read_question_sets


def write(path, *records):
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


@pytest.mark.parametrize(
    ("record", "text", "gold", "continued"),
    [
        ({"question": " 2 + 2? ", "answer": 4}, "2 + 2?", "4", False),
        (
            {"problem": "x?", "solution": r"so \boxed{\frac12}.", "level": 3},
            "x?",
            r"\frac12",
            False,
        ),
        ({"question": "n?", "answer": "3+4=<<7>>7\n#### 7"}, "n?", "7", False),
        ({"instruction": "n?", "output": "3+4=7. The answer is 7."}, "n?", "7", False),
        ({"prompt": "Where?\nAnswer:", "answer": "Bern"}, "Where?\nAnswer:", "Bern", True),
        ({"question": "sure?", "answer": True}, "sure?", "true", False),
    ],
)
def test_open_questions(record, text, gold, continued, tmp_path):
    found = read_question_set(write(tmp_path / "a.jsonl", record), "a")
    (question,) = found.questions
    assert (question.text, question.gold, question.continued) == (text, gold, continued)
    assert not found.has_candidates


def test_what_a_question_is_about_is_kept(tmp_path):
    record = {"instruction": "Sum up.", "input": "Long text.", "output": "Text.", "system": "Be."}
    (question,) = read_question_set(write(tmp_path / "a.jsonl", record), "a").questions
    assert (question.about, question.system) == ("Long text.", "Be.")


def test_what_was_asked_before_is_asked_with_it(tmp_path):
    record = {"instruction": "And 3 + 3?", "output": "6", "history": [["2 + 2?", "4"]]}
    (question,) = read_question_set(write(tmp_path / "a.jsonl", record), "a").questions
    assert question.history == (("2 + 2?", "4"),)
    with pytest.raises(ValueError, match="record 1: history is not pairs"):
        read_question_set(write(tmp_path / "b.jsonl", {**record, "history": ["x"]}), "b")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_number_that_is_none_is_no_answer(value, tmp_path):
    path = tmp_path / "a.parquet"
    Dataset.from_dict({"question": ["a", "b"], "answer": [1.5, value]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"record 2.*answer"):
        read_question_set(path, "a")


def test_numbers_are_spelled_as_in_training(tmp_path):
    kinds = Features({"question": Value("string"), "answer": Value("float32")})
    path = tmp_path / "a.parquet"
    rows = Dataset.from_dict({"question": ["a", "b"], "answer": [0.1, 5.0]}, features=kinds)
    rows.to_parquet(path)
    trained = format_dataset(read_file(path), conversational=False).dataset["completion"][:]
    assert [q.gold for q in read_question_set(path, "a").questions] == trained == ["0.1", "5.0"]
    path = write(
        tmp_path / "b.jsonl",
        *[{"question": "a", "answer": answer} for answer in (5, 2.5, 1.84, "05", 10**30, True)],
    )
    trained = format_dataset(read_file(path), conversational=False).dataset["completion"][:]
    assert [q.gold for q in read_question_set(path, "b").questions] == trained
    assert trained == ["5", "2.5", "1.84", "05", str(10**30), "true"]


def test_a_pattern_is_every_file_that_matches(tmp_path):
    for name in ("b", "a"):
        write(tmp_path / f"{name}.jsonl", {"question": name, "answer": 1})
    assert [s.name for s in read_question_sets([tmp_path / "*.jsonl"])] == ["a", "b"]
    with pytest.raises(FileNotFoundError, match="matches"):
        read_question_sets([tmp_path / "x*.jsonl"])


def test_candidates(tmp_path):
    record = {"prompt": "It rained so", "candidates": ["it is dry.", "it is wet."], "label": 1}
    found = read_question_set(write(tmp_path / "copa.jsonl", record), "copa")
    assert found.has_candidates
    assert (found.questions[0].gold, found.questions[0].label) == ("it is wet.", 1)
    assert found.layout == "prompt + candidates + label"


def test_tasks_as_the_hub_has_them_become_candidates(tmp_path):
    records = [
        {"premise": "It rains.", "hypothesis": "It is wet.", "label": label} for label in (0, 1)
    ]
    path = write(
        tmp_path / "cb.jsonl",
        *[{**r, "label": n} for r, n in zip(records, ("entailment", "neutral"), strict=True)],
    )
    first, second = read_question_set(path, "cb").questions
    assert first.candidates == ("true", "false", "uncertain")
    assert (first.label, second.label) == (0, 2)
    assert "It is wet." in first.text


def test_limit_and_names(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "dev.jsonl", *[{"question": "?", "answer": n} for n in range(3)])
    write(tmp_path / "other.jsonl", {"question": "?", "answer": "1"})
    paths = [tmp_path / "one/dev.jsonl", tmp_path / "two/dev.jsonl", tmp_path / "other.jsonl"]
    sets = read_question_sets(paths, limit=2)
    assert [each.name for each in sets] == ["one/dev", "two/dev", "other"]
    assert [len(each.questions) for each in sets] == [2, 2, 1]
    assert [each.file for each in sets] == ["dev.jsonl", "dev.jsonl", "other.jsonl"]
    with pytest.raises(ValueError, match="two files are called one/dev"):
        read_question_sets([paths[0], paths[0]])


def test_other_files_are_read_too(tmp_path):
    (tmp_path / "a.csv").write_text("question,answer\n2 + 2?,4\n")
    assert read_question_set(tmp_path / "a.csv", "a").questions[0].gold == "4"


@pytest.mark.parametrize(
    ("records", "complaint"),
    [
        ([], "holds no records"),
        ([{"text": "?"}], "no known layout in columns text; expected one of: prompt + candidates"),
        ([{"question": "?", "answer": ""}], "record 1: answer must be text"),
        ([{"question": "?", "answer": "1"}, {"question": "?"}], "record 2 has no answer"),
        ([{"question": "?", "answer": ["1"]}], "record 1: answer must be text"),
        ([{"prompt": "?", "candidates": ["a"], "label": 0}], "candidates must be two texts"),
        ([{"prompt": "?", "candidates": "ab", "label": 0}], "candidates must be two texts"),
        ([{"prompt": "?", "candidates": ["a", "b"], "label": 2}], "label must count its 2"),
        ([{"prompt": "?", "candidates": ["a", "b"], "label": True}], "label must count its 2"),
        ([{"prompt": " ", "candidates": ["a", "b"], "label": 0}], "record 1: prompt must be text"),
        ([{"premise": "a", "hypothesis": "b", "label": "maybe"}], "labels"),
        ([{"sentence": "a", "label": 7}], "record 1: label is 7"),
    ],
)
def test_what_cannot_be_read_is_named(records, complaint, tmp_path):
    path = write(tmp_path / "a.jsonl", *records)
    with pytest.raises(ValueError, match=r"a\.jsonl") as found:
        read_question_set(path, "a")
    assert complaint in str(found.value)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_question_set(tmp_path / "no.jsonl", "no")
    (tmp_path / "a.jsonl").write_text('{"question": "?", "answer": "1"}\n{"question')
    with pytest.raises(ValueError, match=r"a.jsonl:2: not valid JSON"):
        read_question_set(tmp_path / "a.jsonl", "a")
    (tmp_path / "a.txt").write_text("?")
    with pytest.raises(ValueError, match="unknown kind of file"):
        read_question_set(tmp_path / "a.txt", "a")


values = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
)
values = values | st.lists(values, max_size=3)
names = st.sampled_from(
    ["question", "answer", "prompt", "candidates", "label", "system", "input", "sentence", "x"]
)


@settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=150,
    suppress_health_check=list(HealthCheck),
)
@given(records=st.lists(st.dictionaries(names, values, max_size=5), max_size=3))
def test_any_record_is_taken_or_refused_in_words(records, tmp_path):
    path = tmp_path / "any.jsonl"
    write(path, *records)
    try:
        found = read_question_set(path, "any")
    except ValueError as error:
        found, complaint = None, str(error)
    if found is None:
        assert complaint.startswith(f"{path}")
    else:
        assert len(found.questions) == len(records)
        assert all(question.text.strip() and question.gold for question in found.questions)
