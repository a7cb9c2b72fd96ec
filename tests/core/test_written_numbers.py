"""Numbers as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fossilray.core.written_numbers import readings_of, style_of, write_number


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("2030", [2030]),
        ("2030.5", [2030.5]),
        ("2030,5", [2030.5]),
        ("2,030.5", [2030.5]),
        ("2.030,5", [2030.5]),
        ("1,234,567", [1_234_567]),
        ("1.234.567,8", [1_234_567.8]),
        ("2 030,5", [2030.5]),
        ("2\u00a0030", [2030]),
        ("12\u202f030.125", [12030.125]),
        ("2'030.5", [2030.5]),
        ("0.250", [0.25]),
        ("0,250", [0.25]),
        ("2030.125", [2030.125]),
        ("2030,125", [2030.125]),
        ("\N{MINUS SIGN}5", [-5]),
        ("+1e3", [1000]),
        (".500", [0.5]),
        ("5.", [5]),
        ("2,030", [2.03, 2030]),
        ("2.030", [2.03, 2030]),
        ("-950.125", [-950.125, -950_125]),
        ("", []),
        ("2030 m", []),
        ("1,23,4", []),
        ("1,234.567,8", []),
        ("0,123,456", []),
        ("1_000", []),
        ("nan", []),
        ("inf", []),
        ("1e999", []),
        ("0x10", []),
        ("2 03", []),
    ],
)
def test_a_text_is_a_number_two_numbers_or_none(text: str, values: list[float]) -> None:
    assert sorted((reading.value for reading in readings_of(text)), key=abs) == values


@pytest.mark.parametrize(
    ("others", "text", "value"),
    [
        (["2,030.5"], "2,031", 2031),
        (["1,234,567", "2030"], "212,031", 212_031),
        (["2030,5"], "950,125", 950.125),
        (["2030.5"], "950.125", 950.125),
        (["2030.5", "1,950.25"], "2,031", 2031),
        ([], "2,030", None),
        (["2030", "1985"], "2,030", None),
        # The decimal comma is shown, but 2.03 m lies far from the other depths.
        (["2030,5"], "2,030", None),
        (["2030.5", "2031,5"], "950.125", None),
        (["deep", ""], "2,030", None),
    ],
)
def test_other_cells_of_the_column_settle_two_readings_or_leave_them_open(
    others: list[str], text: str, value: float | None
) -> None:
    style = style_of([*others, text], lambda number: True)
    chosen = style.choose(readings_of(text))
    assert (chosen and chosen.value) == value
    assert style.uncertain == 1


def test_a_reading_that_the_column_cannot_hold_does_not_count() -> None:
    assert style_of(["1,024"], float.is_integer).uncertain == 0
    assert style_of(["2,000"], float.is_integer).uncertain == 1


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_written_number_has_one_reading(value: float) -> None:
    (reading,) = readings_of(write_number(value))
    assert reading.value == value


@given(st.integers(0, 10**7), st.sampled_from([".", ","]))
def test_three_decimals_are_never_ambiguous_as_fossilray_writes_them(thousandths: int, sign: str) -> None:
    value = thousandths / 1000
    (reading,) = readings_of(write_number(value).replace(".", sign))
    assert reading.value == value
