"""The readers that every format has one of: what they take, what they refuse, and in what words."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fossilray.core.errors import ConfigError, DamagedFile
from fossilray.core.formats import FileRole, parse_json, parse_record
from fossilray.core.formats.parquet import read_table
from fossilray.core.formats.yaml_text import parse_yaml
from fossilray.core.heartbeat import Heartbeat

ROLE = FileRole("run/thing", "the thing of the run", "make it again")
SETTINGS = FileRole("run.yaml", "settings", "correct it", ConfigError)
BEAT = Heartbeat("d", "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:30+00:00", 9, 1, 0, 5, 2.5, 1, ("a",))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


def check_refusal(read: Callable[[], object]) -> None:
    """Reading succeeds, or is refused in one sentence that names the file, its use and the remedy."""
    said = ""
    try:
        read()
    except DamagedFile as error:
        said = str(error)
    assert not said or said.startswith("run/thing (the thing of the run) cannot be used: ")
    assert not said or said.endswith("; make it again")
    assert said.isprintable()


@given(JSON)
def test_json_is_read_as_the_library_reads_it(value: object) -> None:
    assert parse_json(json.dumps(value), ROLE) == value


@given(st.binary(max_size=200))
def test_bytes_that_are_no_json_are_named_in_one_sentence(content: bytes) -> None:
    check_refusal(lambda: parse_json(content, ROLE))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"[" * 1_000_000, "1,000,000 deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "100,000 deep"),
        (b'"' + b"[" * 1_000_000, "deep"),
        (b'{"a": 1, "a": 2}', "'a' twice"),
        (b'{"a": NaN}', "NaN"),
        (b"-Infinity", "-Infinity"),
        (b"1e999", "1e999"),
        (b"9" * 5000, "not JSON"),
        (b"9223372036854775808", "64 bits"),
        (b"\xff", "not JSON"),
    ],
)
def test_json_beyond_bounds_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(DamagedFile, match=says):
        parse_json(content, ROLE)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"total": "9"}, "total"),
        ({"total": 9.5}, "total"),
        ({"total": True}, "total"),
        ({"slides_per_hour": "fast"}, "slides_per_hour"),
        ({"in_flight": "a"}, "in_flight"),
        ({"beat_at": "yesterday"}, "beat_at"),
        ({"colour": 1}, "colour"),
    ],
)
def test_record_with_values_of_other_types_is_refused(change: dict[str, object], says: str) -> None:
    stated = asdict(BEAT)
    assert parse_record(Heartbeat, json.dumps(stated), ROLE) == BEAT
    with pytest.raises(DamagedFile, match=says):
        parse_record(Heartbeat, json.dumps({**stated, **change}), ROLE)
    del stated[next(iter(stated))]
    with pytest.raises(DamagedFile, match="driver_id"):
        parse_record(Heartbeat, json.dumps(stated), ROLE)


def test_yaml_aliases_count_as_often_as_they_stand() -> None:
    assert parse_yaml("a: &a [1, 2]\nb: *a\n", SETTINGS) == {"a": [1, 2], "b": [1, 2]}
    assert parse_yaml("a: &a {x: 1}\nb:\n  <<: *a\n  y: 2\n", SETTINGS)["b"] == {"x": 1, "y": 2}
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    with pytest.raises(ConfigError, match=r"run\.yaml .*more than 100,000 values"):
        parse_yaml("\n".join(levels), SETTINGS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &a [*a]", "inside the node"),
        ("[" * 100_000, "level"),
        ("- " * 50_000 + "x", "level"),
        ("\n".join(["a0: &a0 [1]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 200))]), "levels"),
        ("a: 1\nb: 2\na: 3", "line 3 has the key 'a' a second time"),
        ("a: 1\nb: 2026-99-99", "line 2 has '2026-99-99', which is not a date: month"),
        ("a: 1\nb: " + "9" * 5000, "line 2 has a number that is too long, of 5,000 digits"),
        ("a: 1\nb: !!bool no-bool", "line 2 has 'no-bool', which is not a bool"),
        ("!!python/object/apply:os.system [x]", "not YAML"),
        ("a: b: c", "not YAML"),
        ("{[1]: 2}", "not YAML"),
        ("a: \x00", "not YAML"),
        ("x" * 2_000_000, "characters"),
        ("a: &a " + "x" * 900_000 + "\nb: [" + "*a, " * 1000 + "]", "values"),
    ],
)
def test_yaml_beyond_bounds_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_yaml(text, SETTINGS)


@given(st.text(alphabet="ab:-[]{}&*<>!|\"'\n 1,?#%@\x85", max_size=60))
def test_text_is_yaml_or_refused(text: str) -> None:
    check_refusal(lambda: parse_yaml(text, ROLE))


SCHEMA = pa.schema([pa.field("slide_id", pa.string(), nullable=False), pa.field("mpp", pa.float64())])
TABLE = pa.Table.from_pydict({"slide_id": ["a", "b"], "mpp": [0.25, None]}, schema=SCHEMA)


def as_parquet(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def test_table_is_brought_to_its_schema() -> None:
    assert read_table(as_parquet(TABLE), ROLE, schema=SCHEMA).equals(TABLE)
    without = read_table(as_parquet(TABLE.drop_columns(["mpp"])), ROLE, schema=SCHEMA)
    assert without["mpp"].null_count == 2


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (TABLE.append_column("colour", pa.array([1, 2])), "colour"),
        (TABLE.drop_columns(["slide_id"]), "lacks the column slide_id"),
        (TABLE.set_column(1, "mpp", pa.array(["a", "b"])), "column mpp is of string"),
        (TABLE.set_column(0, "slide_id", pa.array([1, 2])), "column slide_id is of int64"),
        (TABLE.set_column(0, "slide_id", pa.array(["a", None])), "column slide_id is null in 1 rows"),
        (pa.Table.from_arrays([*TABLE.columns, TABLE["mpp"]], names=["slide_id", "mpp", "mpp"]), "twice"),
    ],
)
def test_table_with_other_columns_is_refused(table: pa.Table, says: str) -> None:
    with pytest.raises(DamagedFile, match=says):
        read_table(as_parquet(table), ROLE, schema=SCHEMA)


@given(st.data())
def test_damaged_parquet_is_named(data: st.DataObject) -> None:
    codec = data.draw(st.sampled_from(["none", "snappy", "gzip", "zstd"]))
    content = bytearray(as_parquet(TABLE, write_page_checksum=True, compression=codec))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(content)))
    for damaged in (bytes(content), bytes(content[:cut])):
        check_refusal(lambda damaged=damaged: read_table(damaged, ROLE, schema=SCHEMA).to_pylist())


def test_parquet_damaged_in_any_one_byte_is_named_and_does_not_end_the_process() -> None:
    # PyArrow calls std::terminate when it describes a column whose statistics contradict each other.
    content = as_parquet(TABLE, write_page_checksum=True, compression="none")
    for position in range(len(content)):
        damaged = content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        check_refusal(lambda damaged=damaged: read_table(damaged, ROLE, schema=SCHEMA))


@pytest.mark.parametrize("kind", [pa.string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_that_inflates_without_bound_is_refused_in_little_memory(kind: pa.DataType) -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 40_000, pa.int32()), pa.array(["x" * 1_000_000]))
    sink = io.BytesIO()
    with pq.ParquetWriter(
        sink, pa.schema([("slide_id", column.type)]), store_schema=kind != pa.string()
    ) as out:
        out.write_table(pa.table({"slide_id": column}))
    assert len(sink.getvalue()) < 1_000_000
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(DamagedFile, match="inflates to more than"):
        read_table(sink.getvalue(), ROLE, schema=SCHEMA)
    assert pa.default_memory_pool().max_memory() - before < 2**28
