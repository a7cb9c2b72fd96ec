"""Results of queries as CSV, JSON and Parquet: every value whole."""

from __future__ import annotations

import decimal
import io
import json

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from fossilray.core.errors import UsageError
from fossilray.render.tables import encode_table

TABLE = pa.table(
    {
        "slide": ["Prøve №1 «ø»", "=HYPERLINK(1)"],
        "objects": pa.array([decimal.Decimal(1942), decimal.Decimal(10**30 + 1)], pa.decimal128(38, 0)),
        "depth_m": [2030.55, float("nan")],
        "boxes": [[1, 2], None],
    }
)


def test_json_holds_whole_numbers_and_no_nan() -> None:
    first, second = json.loads(encode_table(TABLE, "json"))
    assert first == {"slide": "Prøve №1 «ø»", "objects": 1942, "depth_m": 2030.55, "boxes": [1, 2]}
    assert (second["objects"], second["depth_m"], second["boxes"]) == (10**30 + 1, None, None)


def test_csv_holds_whole_numbers_nested_values_as_json_and_no_formula() -> None:
    table = pyarrow.csv.read_csv(io.BytesIO(encode_table(TABLE, "csv")))
    assert table["boxes"].to_pylist() == ["[1, 2]", ""]
    assert table["slide"].to_pylist() == ["Prøve №1 «ø»", "'=HYPERLINK(1)"]
    assert str(10**30 + 1) in encode_table(TABLE, "csv").decode()


def test_parquet_is_the_table_itself() -> None:
    assert pq.read_table(io.BytesIO(encode_table(TABLE, "parquet")))["objects"].equals(TABLE["objects"])


def test_json_refuses_two_columns_of_one_name_which_csv_writes() -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["n", "n"])
    with pytest.raises(UsageError, match="two columns of the result are named n"):
        encode_table(table, "json")
    assert encode_table(table, "csv").decode().splitlines() == ['"n","n"', "1,2"]
