"""Local files: what is read equals what was written; what is broken is named with its line."""

import csv
import gzip
import json
import re
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from colm.data import FORMATS, check_file, file_stem, is_data_file, read_file

RECORDS = [
    {"instruction": "Add 2 and 2.", "output": "4", "source": "sums"},
    {"instruction": "What day\ncame first?", "output": "2020-01-01", "source": "dates"},
    {"instruction": 'Say "no", please', "output": "NA", "source": "élan, vital"},
]


def write(path: Path, records: list[dict]) -> Path:
    """Write records in the format that the name of the file says."""
    if path.name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(records), path)
        return path
    if ".csv" in path.name:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "wt", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
        return path
    text = "\n".join(json.dumps(record) for record in records)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_returns_what_was_written(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"train{suffix}", RECORDS)
    assert read_file(path).to_list() == RECORDS
    check_file(path)


@pytest.mark.parametrize("name", ["weird [1] *?.jsonl", "TRAIN.JSONL", "a.b.jsonl"])
def test_a_name_is_no_pattern(tmp_path: Path, name: str) -> None:
    write(tmp_path / "weird 1 x.jsonl", RECORDS[:1])
    assert read_file(write(tmp_path / name, RECORDS)).to_list() == RECORDS


@pytest.mark.parametrize("name", ["weird [1].csv", "weird [1].parquet"])
def test_a_name_is_no_pattern_for_datasets_either(tmp_path: Path, name: str) -> None:
    write(tmp_path / name.replace("[1]", "1"), RECORDS[:1])
    assert len(read_file(write(tmp_path / name, RECORDS))) == len(RECORDS)


def test_one_json_array_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text("\n" + json.dumps(RECORDS, indent=2))
    assert read_file(path).to_list() == RECORDS


def test_blank_lines_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    lines = "\r\n\r\n".join(json.dumps(record) for record in RECORDS)
    path.write_bytes(b"\xef\xbb\xbf" + lines.encode() + b"\r\n \r\n")
    assert read_file(path).to_list() == RECORDS


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize(
    "name", ["train.jsonl", "train.json", "train.csv", "t.jsonl.gz", "t.csv.gz"]
)
def test_text_that_windows_writes(tmp_path: Path, name: str, encoding: str) -> None:
    path = write(tmp_path / name, RECORDS)
    if name.endswith(".json"):
        path.write_text(json.dumps(RECORDS, indent=1))
    unpack, pack = (gzip.decompress, gzip.compress) if name.endswith(".gz") else (bytes, bytes)
    path.write_bytes(pack(unpack(path.read_bytes()).decode().encode(encoding)))
    assert read_file(path).to_list() == RECORDS
    check_file(path)


def test_brackets_in_text_are_not_nested(tmp_path: Path) -> None:
    records = [{"text": '[{"' * 500 + '\\"[['}, {"text": "x", "list": [[[]] * 200]}]
    dataset = read_file(write(tmp_path / "train.jsonl", records))
    assert dataset["text"][:] == [record["text"] for record in records]


def test_lists_in_lists_go_as_deep_as_json_may(tmp_path: Path) -> None:
    value: object = [1]
    for _ in range(90):
        value = [value]
    dataset = read_file(write(tmp_path / "train.jsonl", [{"a": value}, {"a": [[]]}]))
    assert dataset["a"][:] == [value, [[]]]


def test_a_missing_column_is_null_even_if_it_appears_in_the_last_line_only(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    early = [{"a": "x", "m": [{"role": "user"}]}] * 2500
    last = {"a": "y", "m": [{"role": "tool", "id": 7}], "late": "z"}
    dataset = read_file(write(path, [*early, last]))
    assert dataset[0] == {"a": "x", "m": [{"role": "user"}], "late": None}
    assert dataset[-1] == last


def as_written(value: object) -> str:
    """JSON text, which tells 5 from 5.0, true from 1 and one order of keys from another."""
    return json.dumps(value)


def test_records_have_the_keys_and_numbers_that_the_file_gives_them(tmp_path: Path) -> None:
    def call(name: str, arguments: dict) -> dict:
        tool = {"type": "function", "function": {"name": name, "parameters": arguments}}
        return {
            "messages": [
                {"role": "user", "content": None},
                {"tool_calls": [{"name": name, "arguments": arguments}], "role": "assistant"},
            ],
            "tools": [tool],
            "chat_template_kwargs": arguments,
        }

    records = [
        call("weather", {"city": "Oslo", "zip": "0150", "at": [59.91, 10.75], "deep": {"x": {}}}),
        call("add", {"y": 2, "x": 1.84, "z": 3.141592653589793, "big": 10**30, "n": None}),
        call("none", {}),
        call("order", {"x": 1, "y": 2.0}),
    ]
    dataset = read_file(write(tmp_path / "train.jsonl", records))
    assert as_written(list(dataset)) == as_written(records)
    assert as_written(list(dataset.to_iterable_dataset())) == as_written(records)


def test_a_column_of_mixed_types_stays_readable(tmp_path: Path) -> None:
    values = ["x", "05", 1, [2], {"k": None}, None, True, 2.5, 5, 1e-12, 10**30, "null", '"q"']
    path = write(tmp_path / "train.jsonl", [{"text": "t", "meta": value} for value in values])
    assert as_written(read_file(path)["meta"][:]) == as_written(values)


def test_whole_numbers_stay_whole_beside_fractions(tmp_path: Path) -> None:
    records = [{"n": 1, "l": [5, 2.5]}, {"n": 2.5, "l": []}, {"n": 3.0, "l": None}]
    dataset = read_file(write(tmp_path / "train.jsonl", records))
    assert as_written(list(dataset)) == as_written(records)


def test_reading_takes_as_long_as_the_file_is(tmp_path: Path) -> None:
    objects = ({f"k{row}_{key}": key for key in range(40)} for row in range(3000))
    path = write(tmp_path / "train.jsonl", [{"m": [keys], "o": keys} for keys in objects])
    started = time.process_time()
    read_file(path)
    assert time.process_time() - started < 10.0  # All keys in all records are 720 million cells.


def test_keys_that_differ_in_every_record_are_no_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", [{"a": 1, f"k{row}": row} for row in range(2000)])
    with pytest.raises(ValueError, match=r"train\.jsonl: .* different keys"):
        read_file(path)


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    assert len(read_file(write(path, RECORDS))) == 3
    assert len(read_file(write(path, RECORDS[:2]))) == 2


def test_a_csv_field_may_be_long_and_a_row_may_be_blank(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    path = tmp_path / "train.csv"
    path.write_text(f"text,n\n{'x' * 200_000},1\n\nshort,2\n")
    dataset = read_file(path)
    assert dataset["n"][:] == ["1", "2"]
    assert len(dataset[0]["text"]) == 200_000
    assert csv.field_size_limit() == limit


def test_part_of_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", RECORDS)
    assert read_file(path, "train[1:]").to_list() == RECORDS[1:]
    assert len(read_file(path, "train[:34%]")) == 1
    with pytest.raises(ValueError, match="no split 'test'; a file has one, 'train'"):
        read_file(path, "test")


GOOD = b'{"a": "x"}\n'
BROKEN = {
    "cut.jsonl": (GOOD + b'{"a": "x', ":2: not valid JSON: Unterminated string"),
    "blank.jsonl": (GOOD + b"\n\n{'a': 1}", ":4: not valid JSON"),
    "two.jsonl": (GOOD + b'{"a": 1} {"a": 2}', ":2: not valid JSON: Extra data"),
    "nan.jsonl": (GOOD + b'{"a": NaN}', ":2: not valid JSON: NaN is not a JSON number"),
    "list.jsonl": (GOOD + b"[1, 2]", ":2: not a JSON object but a list"),
    "text.jsonl": (b'"hello"', ":1: not a JSON object but a string"),
    "null.jsonl": (GOOD * 3 + b"null", ":4: not a JSON object but null"),
    "bytes.jsonl": (GOOD + b'{"a": "\xff"}', ":2: not UTF-8 text"),
    "surrogate.jsonl": (GOOD + rb'{"a": "\ud800"}', ":2: not valid JSON: half a surrogate pair"),
    "deep.jsonl": (GOOD + b"[" * 100_000, ":2: not valid JSON"),
    "nested.jsonl": (
        GOOD + b'{"a": ' * 500 + b"1" + b"}" * 500,
        "not valid JSON: nested",
    ),
    "nested.json": (
        b'[{"a": ' + b"[" * 300 + b"]" * 300 + b"}]",
        "not valid JSON: nested",
    ),
    "huge.jsonl": (GOOD + b'{"a": [1e400]}', ":2: not valid JSON: 1e400 is beyond"),
    "minus.jsonl": (GOOD + b'{"a": {"b": -1E400}}', ":2: not valid JSON: -1E400 is beyond"),
    "digits.jsonl": (GOOD + b'{"a": ' + b"9" * 5000 + b"}", ":2: not valid JSON"),
    "infinite.jsonl": (GOOD + b'{"a": -Infinity}', ":2: not valid JSON: -Infinity is not a"),
    "empty.jsonl": (b"", ": holds no records"),
    "spaces.jsonl": (b"\n \n", ": holds no records"),
    "keyless.jsonl": (b"{}\n{}", ": none of its records has a key"),
    "item.json": (b'[{"a": 1},\n 3]', ": item 2: not a JSON object but a number"),
    "array.json": (b'[{"a": 1},\n {"a": ]', ":2: not valid JSON"),
    "cut.jsonl.gz": (gzip.compress(GOOD * 1000)[:-20], "not a whole gzip file"),
    "no.jsonl.gz": (GOOD, ":1: not a whole gzip file"),
    "broken.jsonl.gz": (gzip.compress(GOOD + b"{"), ":2: not valid JSON"),
    "short.csv": (b"a,b\n1,2\n3\n", ":3: 1 field where the header has 2"),
    "long.csv": (b'a,b\n"x\ny",2\n1,2,3\n', ":4: 3 fields where the header has 2"),
    "quote.csv": (b'a,b\n1,2\n3,"4', ":3: not valid CSV"),
    "after.csv": (b'a,b\n1,"2"3\n', ":2: not valid CSV"),
    "header.csv": (b"a,b\n", ": holds no records"),
    "empty.csv": (b"", ": holds no records"),
    "twice.csv": (b"a,a\n1,2\n", ":1: every column needs a name of its own"),
    "unnamed.csv": (b"a,\n1,2\n", ":1: every column needs a name of its own"),
    "bytes.csv": (b"a,b\n1,2\n\xff,2\n", ":3: not UTF-8 text"),
    "text.parquet": (b"a,b\n1,2\n", ": not a readable Parquet file"),
}


@pytest.mark.parametrize("reader", [read_file, check_file])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, name: str, reader) -> None:
    content, complaint = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(complaint)) as raised:
        reader(path)
    message = str(raised.value)
    assert message.startswith(f"{path}:")
    assert "\n" not in message


def test_a_parquet_file_without_rows_or_with_a_broken_page(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"a": pa.array([], pa.string())}), path)
    with pytest.raises(ValueError, match="holds no records"):
        read_file(path)
    write(path, RECORDS)
    data = bytearray(path.read_bytes())
    data[4:60] = b"\xff" * 56
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"train\.parquet: cannot be read"):
        read_file(path)


def test_what_is_no_data_file(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("x")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(FileNotFoundError, match=r"missing\.jsonl: no such file"):
        read_file(tmp_path / "missing.jsonl")
    for name in ("train.txt", "folder.jsonl"):
        with pytest.raises(ValueError, match=r"expected a file ending in \.jsonl, .*\.parquet"):
            read_file(tmp_path / name)


def test_names() -> None:
    assert [is_data_file(n) for n in ("a.jsonl.gz", "b.CSV", "jsonl", "x/y")] == [
        True,
        True,
        False,
        False,
    ]
    assert [file_stem(n) for n in ("d/a.jsonl.gz", "b.v2.CSV", "plain")] == ["a", "b.v2", "plain"]


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), st.text(max_size=8), min_size=1), min_size=1)
)
def test_any_text_comes_back(tmp_path: Path, records: list[dict]) -> None:
    dataset = read_file(write(tmp_path / "any.jsonl", records))
    columns = {key for record in records for key in record}
    assert dataset.to_list() == [{key: r.get(key) for key in dataset.column_names} for r in records]
    assert set(dataset.column_names) == columns


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(JSON_VALUES, min_size=1, max_size=4))
def test_any_values_are_read_beside_text(tmp_path: Path, values: list) -> None:
    records = [{"text": str(place), "meta": value} for place, value in enumerate(values)]
    dataset = read_file(write(tmp_path / "any.jsonl", records))
    assert as_written(list(dataset)) == as_written(records)
