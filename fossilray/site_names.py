"""Well and measured depth in the name of a slide, by the conventions of several countries or by a pattern.

The grammar is the table of docs/site-names.md. What may be read in two ways is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeAlias

from fossilray.name_pattern import NamePattern

Match: TypeAlias = re.Match[str]

_METRES_PER_FOOT = 0.3048
_DEEPEST_M = 15_000
_BEGIN, _END = r"(?<![A-Za-z0-9.,])", r"(?![A-Za-z0-9]|[.,]\d)"

# Quadrant, block, platform, number, sidetrack. Quadrants of the Norwegian Sea and the Barents Sea have four
# digits (latitude, longitude); elsewhere at most three.
_NORWEGIAN = (
    r"(?<![A-Za-z0-9.,])(?:NO[ _-]?)?"
    r"(?P<quadrant>[67]\d{3}|[1-9]\d{0,2})(?P<slash>[/_-])(?P<block>[1-9]\d?)"
    r"-(?:(?P<platform>[A-Z])-)?(?P<number>[1-9]\d{0,2})"
    r"(?:[ _-]?(?P<sidetrack>[A-DRST]{1,2}\d?))?"
)
_STRICT_NORWEGIAN = re.compile(_NORWEGIAN + r"(?![A-Za-z0-9.,])")
_LOOSE_NORWEGIAN = re.compile(_NORWEGIAN + _END)

# A unit that goes on in small letters is another unit (mm, mpp) or a word.
_DEPTH = re.compile(
    r"(?<![A-Za-z0-9.,])(?P<from>\d+(?:[.,]\d+)?\s*(?:m|ft)?\s*(?:[-\u2013\u2014/+]|\.\.|to|til|bis)\s*)?"
    r"(?P<number>\d{1,3}(?:,\d{3})+|\d{1,5}(?:[.,]\d+)?)[ _]?"
    r"(?P<unit>m|ft|Ft|FT|feet)(?![a-z0-9])(?P<vertical>[ _]?TVD)?"
)
# One to three digits, a separator and three digits: thousands in one country, a decimal fraction in another.
_EITHER = re.compile(r"\d{1,3}[.,]\d{3}")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+")

# Words before a number that are no well.
_NO_WELLS = frozenset(
    "aperio batch block box camera case copy core crop day depth depths export field film fraction glass "  # noqa: SIM905
    "hamamatsu image img job jpeg kerogen lab layer leica level lot mirax mount olympus page palyno part photo plate "
    "position prep preparation project rack run sample scan scanner section series set slide slidescanner slot stack "
    "test tray unit version well zeiss zoom jan feb mar apr may jun jul aug sep sept oct nov dec".split()
)


def parse_name(stem: str, pattern: NamePattern | None = None) -> tuple[str | None, float | None]:
    """Well and measured depth (m) in a name such as `6407_6-5 2030 mDC`; None for what it does not state.

    A date is no well; a range of depths or a vertical depth is no measured depth. Feet become metres. pattern: is tried
    first, and alone decides where it matches.
    """
    if pattern is not None:
        found = pattern.find(stem)
        if found is not None:
            well, number, unit = found
            return well, None if number is None else _metres(number, unit or "m")
    match, well = _find_well(stem)
    rest = stem if match is None else f"{stem[: match.start()]} {stem[match.end() :]}"
    depths = {_depth_m(found) for found in _DEPTH.finditer(rest)}
    return well, depths.pop() if len(depths) == 1 else None


def well_of_folders(names: Iterable[str], pattern: NamePattern | None = None) -> str | None:
    """The well that the first of these folders is named after that is named after any."""
    return next((well for well, _ in (parse_name(name, pattern) for name in names) if well), None)


def _find_well(stem: str) -> tuple[Match | None, str | None]:
    for norwegian in (_STRICT_NORWEGIAN, _LOOSE_NORWEGIAN):
        found = [match for match in norwegian.finditer(stem) if _is_norwegian(match)]
        if found:
            names = {_norwegian_name(match) for match in found}
            return (found[0], names.pop()) if len(names) == 1 else (None, None)
    others = [(match, name_of(match)) for pattern, name_of in _OTHERS for match in pattern.finditer(stem)]
    if not others:
        others = [(match, match["name"]) for match in _NAMED.finditer(stem) if _is_named(match, stem)]
    names = {name for _, name in others}
    return others[0] if len(names) == 1 else (None, None)


def _is_norwegian(match: Match) -> bool:
    quadrant = match["quadrant"]
    far_north = len(quadrant) == 4
    if int(match["block"]) > (12 if far_north else 30):
        return False
    # 12-6-19 may be a date.
    return match["slash"] != "-" or far_north or match["platform"] is not None


def _norwegian_name(match: Match) -> str:
    platform = f"{match['platform']}-" if match["platform"] else ""
    sidetrack = f" {match['sidetrack']}" if match["sidetrack"] else ""
    return f"{match['quadrant']}/{match['block']}-{platform}{match['number']}{sidetrack}"


def _with_slashes(match: Match) -> str:
    return match["well"].replace("_", "/")


def _plain(match: Match) -> str:
    return match["well"]


_OTHERS: tuple[tuple[re.Pattern[str], Callable[[Match], str]], ...] = (
    # United Kingdom, Ireland: 22/12a-3, 9/13b-A12Z, 211/29-A12.
    (
        re.compile(
            rf"{_BEGIN}(?P<well>[1-9]\d{{0,2}}[/_](?:[1-9]|[12]\d|30)(?:[a-z]-[A-Z]?|-[A-Z])[1-9]\d{{0,2}}"
            rf"(?:[A-Z]\d?)?){_END}"
        ),
        _with_slashes,
    ),
    # Denmark: 5604/20-1.
    (
        re.compile(rf"{_BEGIN}(?P<well>5[4-8]\d\d[/_](?:[1-9]|[12]\d|3[0-2])-[1-9]\d?[A-Z]?){_END}"),
        _with_slashes,
    ),
    # The Netherlands, Germany: F03-07, L09-FF-01.
    (re.compile(rf"{_BEGIN}(?P<well>[A-S](?:0[1-9]|1\d)-(?:[A-Z]{{2}}-)?\d\d(?:-S\d)?){_END}"), _plain),
    # Western Canada, the unique well identifier: 100/06-12-034-05W4/00.
    (
        re.compile(rf"{_BEGIN}(?P<well>1[0-9A-Z]\d[/_]\d\d-\d\d-\d{{3}}-\d\dW\d(?:[/_]\d\d?)?){_END}"),
        _with_slashes,
    ),
    # Scientific drilling, the hole: ODP 207-1258A-14R-2, U1343E-12H-3W.
    (
        re.compile(
            r"(?<![A-Za-z0-9])(?:(?:I?ODP|DSDP)[ _-]+)?(?:\d{1,3}-)?(?P<well>[UMC]?\d{3,4}[A-Z]?)-\d{1,3}[HRXFPS]-"
            r"(?:\d{1,2}W?|CC)(?![A-Za-z0-9])(?:[ ,_]+\d+(?:\.\d+)?(?:\s*-\s*\d+(?:\.\d+)?)?\s*cm)?"
        ),
        _plain,
    ),
    # United States, the API number: 42-501-20130-03-00, or its digits after API.
    (re.compile(rf"{_BEGIN}(?:API[ _-]*)?(?P<well>\d\d-\d{{3}}-\d{{5}}(?:-\d\d){{0,2}}){_END}"), _plain),
    (re.compile(rf"{_BEGIN}API[ _-]*(?P<well>\d{{10}}(?:\d\d){{0,2}}){_END}"), _plain),
)

# DONG-1, Nini-1, North Rankin A22, Hibernia B-16-17.
_NAMED = re.compile(
    r"(?<![A-Za-z0-9.,-])(?P<well_before>[Ww]ell[ _]+)?"
    r"(?P<name>(?:[A-Z][A-Za-z]{2,20}[ _]){0,2}(?:[A-Z][A-Za-z]{2,20}-\d{1,3}[A-Z]?|"
    r"[A-Z][A-Za-z]{2,20} [A-Z]-?\d{1,3}(?:-\d{1,3})?))" + _END
)


def _is_named(match: Match, stem: str) -> bool:
    """A name and a number are a well where the name before it says so, or a depth follows."""
    words = re.split(r"[ _-]", match["name"])
    if any(word.lower() in _NO_WELLS for word in words):
        return False
    depth = _DEPTH.search(stem, match.end())
    return match["well_before"] is not None or (depth is not None and depth.start() - match.end() <= 3)


def _depth_m(match: Match) -> float | None:
    if match["from"] or match["vertical"]:
        return None
    return _metres(match["number"], match["unit"])


def _metres(text: str, unit: str) -> float | None:
    """The depth; None where the number could be read in two ways, or no well is so deep."""
    in_feet = unit.lower() in ("ft", "feet", "foot")
    if _THOUSANDS.fullmatch(text) and (in_feet or text.count(",") > 1):
        text = text.replace(",", "")
    elif _EITHER.fullmatch(text) and not text.startswith("0"):
        return None
    number = float(text.replace(",", "."))
    depth = round(number * _METRES_PER_FOOT, 3) if in_feet else number
    return depth if 0 < depth <= _DEEPEST_M else None
