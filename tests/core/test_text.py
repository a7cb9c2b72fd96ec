"""Numbers, lists and durations as people read them."""

from __future__ import annotations

import math

import pytest

from fossilray.core.text import counted, format_duration, format_percent, list_some, without_secrets


def test_a_short_list_is_written_out_and_a_long_one_says_how_many_are_missing() -> None:
    assert list_some([]) == ""
    assert list_some(["a", "b"]) == "a, b"
    assert list_some("abcdefgh") == "a, b, c, d, e and 3 more"
    assert list_some(range(2000), most=2) == "0, 1 and 1,998 more"
    assert list_some(["a, b", "c", "d"], most=2, separator="; ") == "a, b; c; and 1 more"


def test_a_count_takes_the_plural_unless_it_is_one() -> None:
    assert [counted(number, "slide") for number in (0, 1, 1200)] == ["0 slides", "1 slide", "1,200 slides"]


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0, "0 %"), (1, "100 %"), (0.0042, "0.42 %"), (0.075, "7.5 %"), (0.382, "38 %"), (0.999, "> 99 %"),
        (None, "–"), (math.nan, "–"), (1.5, "150 %"), (0.0000001, "< 0.01 %"),
    ],
)  # fmt: skip
def test_a_percentage_shows_two_digits_and_never_rounds_to_none_or_all(fraction: float, text: str) -> None:
    assert format_percent(fraction) == text


def test_a_percentage_with_decimals_never_rounds_to_none_or_all() -> None:
    shown = [format_percent(fraction, decimals=1) for fraction in (0, 0.00001, 0.9876, 0.99999, 1)]
    assert shown == ["0.0 %", "< 0.1 %", "98.8 %", "> 99.9 %", "100.0 %"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (0.254, "0.25 s"), (42.2, "42 s"), (59.4, "59 s"), (59.7, "1 min 00 s"), (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"), (5 * 3600 + 7 * 60 + 29, "5 h 07 min"), (48 * 3600, "2.0 days"),
        (1.08e6, "12.5 days"), (math.inf, "–"),
    ],
)  # fmt: skip
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize("word", ["x", "a.", "secret", "http://", "token=", "Bearer "])
def test_long_words_are_searched_for_secrets_without_delay(word: str) -> None:
    assert len(without_secrets(word * 20_000)) <= 20_000 * len(word)
    assert "abc" not in without_secrets(word * 100 + " my_token=abc")
