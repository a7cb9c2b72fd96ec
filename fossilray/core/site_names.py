"""Well, depths and sample type in the name of a slide, by the conventions of several countries or by a pattern.

The grammar is the table of docs/guide/site-names.md. What may be read in two ways is left out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias

from fossilray.core.name_pattern import NamePattern
from fossilray.core.plausible_values import PLAUSIBLE_DEPTH_M
from fossilray.core.sample_terms import mid_depth, normalise_sample_type, normalise_unit

Match: TypeAlias = re.Match[str]

_METRES_PER_FOOT = 0.3048
_BEGIN, _END = r"(?<![A-Za-z0-9.,])", r"(?![A-Za-z0-9]|[.,]\d)"

# Quadrant, block, platform, number, sidetrack. Quadrants of the Norwegian Sea and the Barents Sea have four
# digits (latitude, longitude); elsewhere at most three.
_NORWEGIAN = (
    r"(?<![A-Za-z0-9.,])(?:NO[ _-]?)?"
    r"(?P<quadrant>[67]\d{3}|[1-9]\d{0,2})(?P<slash>[/_-])(?P<block>[1-9]\d?|0[1-9](?=-[A-Z]-))"
    r"-(?:(?P<platform>[A-Z])-)?(?P<number>[1-9]\d{0,2})"
    r"(?:[ _-]?(?P<sidetrack>(?:[A-G]?(?:Y\d?H?|H|SR?|R)|[A-G])(?:[ _-]?T\d{1,2})?|[A-G]?S?T\d{0,2}))?"
)
# What looks like a bore after the name of a well, unless it names a kind of sample: the well is then ambiguous.
_BORE = re.compile(r"[ _-]?(?P<letters>[A-HRSTYZ]{1,4})\d{0,2}(?![A-Za-z0-9])")
_SAMPLES = frozenset(("BC", "CC", "CH", "DC", "DST", "HE", "SC", "TS"))
_STRICT_NORWEGIAN = re.compile(_NORWEGIAN + r"(?![A-Za-z0-9.,])")
_LOOSE_NORWEGIAN = re.compile(_NORWEGIAN + _END)

_JOINED = r"(?:[-\u2013\u2014/+&;]|,\s|\.\.|to|til|bis|and|og|und)"
# A unit that continues in small letters is another unit (mm, mpp) or a word.
_DEPTH = re.compile(
    r"(?:(?<![A-Za-z0-9.,])(?P<from>\d+(?:[.,]\d+)?\s*(?:m|ft)?\s*(?:[-\u2013\u2014/+]|\.\.|to|til|bis)\s*)"
    rf"|(?<![A-Za-z0-9.,-])(?P<first>\d+(?:[.,]\d+)?\s*(?:m|ft)?\s*{_JOINED}\s*))?(?:(?<![A-Za-z.,])|(?<=\d\.\.))"
    r"(?<!\d)(?P<number>\d{1,3}(?:,\d{3})+|\d{1,5}(?:[.,]\d+)?)[ _]?"
    r"(?P<unit>m|ft|Ft|FT|feet)(?![a-z0-9])"
    rf"(?P<second>[A-Z]*\s*{_JOINED}\s*\d{{3,5}}(?:[.,]\d+)?(?![A-Za-z0-9-]))?"
)
_VERTICAL = re.compile(r"tvd|(?<![a-z])(?:vertical|subsea)", re.IGNORECASE)
# A sign before the number, or digits and a blank that may make its thousands.
_DASHES = re.compile("[\u2010-\u2015\u2212]")
_SEPARATORS = re.compile(r"[\s_/-]+")
_MINUS = re.compile(r"(?:^|[\s_=(:;,])[-\u2013]$|\u2212$")
_BEFORE_THOUSANDS = re.compile(
    r"(?:(?<![A-Za-z0-9.,/-])|\d[\s_'\u2019]\d{3}\s?[-\u2013\u2014]\s?)\d{1,3}[\s_'\u2019]$"
)
# The beginning of an interval. A sum or a slash may be two depths.
_FROM = re.compile(r"(?P<top>\d+(?:[.,]\d+)?)\s*(?P<unit>m|ft)?\s*(?:[-\u2013\u2014]|\.\.|to|til|bis)\s*")
# A date, or three numbers in a row, before it.
_IN_A_ROW = re.compile(r"\d[-/.\u2013\u2014]$")
_LONGEST_INTERVAL_M = 100.0
"""Cuttings are taken over 3 to 30 m, composites over up to 100 m; `12-2040 m` is a number and a depth."""

# An abbreviation stands alone or behind the unit: 2030 mDC. Small letters are common words, and 10 CC a volume.
_ALONE = r"(?:(?<![A-Za-z0-9])|(?<=\dm)|(?<=\d[ _]m)|(?<=\dft)|(?<=\d[ _]ft))"
_TYPES_IN_NAMES = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("ditch cuttings", rf"{_ALONE}DC(?![A-Za-z0-9])|(?i:(?<![a-z])(?:ditch[ _-]?)?cuttings?(?![a-z]))"),
        ("side-wall core", rf"{_ALONE}SWC(?![A-Za-z])|(?i:(?<![a-z])side[ _-]?wall(?![a-z]))"),
        (
            "core",
            rf"{_ALONE}(?<!\d )(?<!\d_)CC(?![A-Za-z0-9])|{_ALONE}CORE(?![A-Za-z])|"
            r"(?i:(?<![a-z])(?<!wall)(?<!wall[ _-])cores?(?![a-z])(?![ _-]?(?:hole|lab)))",
        ),
        ("outcrop", r"(?i:(?<![a-z])outcrops?(?![a-z]))"),
    )
)
# One to three digits, a separator and three digits: thousands in one country, a decimal fraction in another.
_EITHER = re.compile(r"\d{1,3}[.,]\d{3}")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+")

# Words before a number that are no well, without the s of the plural.
_NO_WELLS = frozenset(
    "acid acritarch alcohol aliquot aperio appendix apr april aug august bag base batch beaker bed bin blank "  # noqa: SIM905
    "block bottle bottom box brightfield cabinet camera carton case channel chip control copy core coverslip "
    "crate crop cutting day dc dec december depth dinocyst dish drawer drop dup duplicate export feb february "
    "field fig figure file film filter filtered final float fluorescence focus folder formation fossil fraction "
    "glass glycerin glycerine hamamatsu hcl hf holotype image img interval item jan january jar jelly job jpeg "
    "jul july jun june kerogen koh lab layer leica lens level loc locality lot lycopodium macerate maceration mag "
    "magnification mar march marker may mesh mirax mount nov november number objective oct october olympus "
    "organic orig original outcrop oxidation oxidised oxidized page palyno palynofacies paratype part pellet "
    "photo plate plug pollen position prep preparation processed project rack raw ref reference rep repeat "
    "replicate residue residuum resin run sample scan scanner section sep sept september series set sheet shelf "
    "sidewall sieve sieved sink site slab slide slidescanner slot smear specimen spike split spore stack stain "
    "stained standard station strew strewn subsample swc table tablet temp test thin tile top tray treated tube "
    "unit unoxidised unoxidized unstained untreated version vial washed well zeiss zone zoom".split()
)


class SiteName(NamedTuple):
    """What the name of a slide states; None for what it does not state."""

    well: str | None = None
    top_depth_m: float | None = None
    base_depth_m: float | None = None
    """Equal to top_depth_m for a single depth."""
    depth_unit: str | None = None
    """`m` or `ft`, in which the name states the depths."""
    sample_type: str | None = None

    @property
    def measured_depth_m(self) -> float | None:
        """The middle of the interval."""
        return mid_depth(self.top_depth_m, self.base_depth_m)


def parse_name(stem: str, pattern: NamePattern | None = None) -> SiteName:
    """Well, depths (m) and sample type in a name such as `6407_6-5 2030-2040 mDC`.

    A date is no well; a vertical depth is no measured depth. Feet become metres. A name with control characters states
    nothing. pattern: is tried first, and alone decides where it matches.
    """
    if any(unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp") for sign in stem):
        return SiteName()
    if pattern is not None:
        named = pattern.find(stem)
        if named is not None:
            return _of_pattern(named)
    match, well = _find_well(stem)
    rest = stem if match is None else f"{stem[: match.start()]}|{stem[match.end() :]}"
    depths = {_interval(depth) for depth in _DEPTH.finditer(rest)}
    interval = depths.pop() if len(depths) == 1 and not _VERTICAL.search(stem) else None
    top, base, unit = interval or (None, None, None)
    return SiteName(well, top, base, unit, _sample_type(rest))


def _of_pattern(named: Mapping[str, str | None]) -> SiteName:
    unit = normalise_unit(named["unit"] or "m") or "m"
    single, top, base = (
        None if text is None else _metres(text, unit)
        for text in (named["depth"], named["top"], named["base"])
    )
    if named["top"] is None and named["base"] is None:
        top = base = single
    kind = None if named["sample_type"] is None else normalise_sample_type(named["sample_type"])
    if top is None or base is None or top > base:
        return SiteName(named["well"], sample_type=kind)
    return SiteName(named["well"], top, base, unit, kind)


def normalise_well(text: str) -> str:
    """The well as `parse_name` writes it, where the text is the name of a well; else the text with single spaces.

    `NO 6407/6-5`, `6407_6-5` and `6407/6\u20135` are 6407/6-5.
    """
    plain = " ".join(_DASHES.sub("-", text).split())
    well = parse_name(re.sub(r" ?([/_-]) ?", r"\1", plain)).well
    if well is not None and well_key(plain).removeprefix("no-") == well_key(well):
        return well
    return plain


def well_key(well: str) -> str:
    """A key that is equal for spellings of one well: without case, and with one sign for all separators."""
    return _SEPARATORS.sub("-", _DASHES.sub("-", well)).strip("-").casefold()


def well_of_folders(names: Iterable[str], pattern: NamePattern | None = None) -> str | None:
    """The well that the first of these folders is named after that is named after any."""
    return next((site.well for site in (parse_name(name, pattern) for name in names) if site.well), None)


def _find_well(stem: str) -> tuple[Match | None, str | None]:
    for norwegian in (_STRICT_NORWEGIAN, _LOOSE_NORWEGIAN):
        matches = [match for match in norwegian.finditer(stem) if _is_norwegian(match)]
        if matches:
            names = {_norwegian_name(match) for match in matches}
            if len(names) > 1:
                return None, None
            return matches[0], None if any(_bore_follows(match) for match in matches) else names.pop()
    others = [(match, name_of(match)) for pattern, name_of in _OTHERS for match in pattern.finditer(stem)]
    if not others:
        others = [(match, match["name"]) for match in _NAMED.finditer(stem) if _is_named(match, stem)]
    names = {name for _, name in others}
    if len(names) != 1:
        return None, None
    return others[0][0], None if any(_bore_follows(match) for match, _ in others) else names.pop()


def _bore_follows(match: Match) -> bool:
    bore = _BORE.match(match.string, match.end())
    return bore is not None and bore["letters"] not in _SAMPLES


def _is_norwegian(match: Match) -> bool:
    quadrant = match["quadrant"]
    far_north = len(quadrant) == 4
    if int(match["block"]) > (12 if far_north else 30):
        return False
    # 12-6-19 may be a date.
    return match["slash"] != "-" or far_north or match["platform"] is not None


def _norwegian_name(match: Match) -> str:
    platform = f"{match['platform']}-" if match["platform"] else ""
    sidetrack = f" {re.sub('[_-]', ' ', match['sidetrack'])}" if match["sidetrack"] else ""
    return f"{match['quadrant']}/{int(match['block'])}-{platform}{match['number']}{sidetrack}"


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
    # A platform of one letter, or a number of one digit: K12-B-3.
    (
        re.compile(
            rf"{_BEGIN}(?P<well>[A-S](?:0[1-9]|1\d)-(?:[A-Z]-\d{{1,2}}|[A-Z]{{2}}-\d)(?:-S\d)?){_END}"
        ),
        _plain,
    ),
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
    # The same without the kind of core: DSDP 48-403-12-3.
    (
        re.compile(
            r"(?<![A-Za-z0-9])DSDP[ _-]+\d{1,2}-(?P<well>\d{1,3}[A-Z]?)-\d{1,3}-(?:\d{1,2}|CC)(?![A-Za-z0-9])"
            r"(?:[ ,_]+\d+(?:\.\d+)?(?:\s*-\s*\d+(?:\.\d+)?)?\s*cm)?"
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
    """Return whether a name and a number are a well: the word before them announces one, or a depth follows."""
    words = [word.lower() for word in re.split(r"[ _-]", match["name"])]
    if any(word in _NO_WELLS or word.removesuffix("s") in _NO_WELLS for word in words):
        return False
    depth = _DEPTH.search(stem, match.end())
    return match["well_before"] is not None or (depth is not None and depth.start() - match.end() <= 3)


def _interval(match: Match) -> tuple[float, float, str] | None:
    """Top and base in metres, equal for a single depth, and their unit; None for what may be read in two ways."""
    if match["first"] or match["second"]:
        return None
    unit = "m" if match["unit"] == "m" else "ft"
    before = match.string[: match.start("from") if match["from"] else match.start("number")]
    # 3 010 m: three thousand, or a number and a depth.
    if _MINUS.search(before) or (
        re.match(r"\d{3}(?!\d)", match["from"] or match["number"]) and _BEFORE_THOUSANDS.search(before)
    ):
        return None
    base = _metres(match["number"], unit)
    if not match["from"]:
        return None if base is None else (base, base, unit)
    range_ = _FROM.fullmatch(match["from"])
    if range_ is None or range_["unit"] not in (None, unit) or _IN_A_ROW.search(before):
        return None
    top = 0.0 if range_["top"] == "0" else _metres(range_["top"], unit)
    if top is None or base is None or not 0 < base - top <= _LONGEST_INTERVAL_M:
        return None
    return top, base, unit


def _sample_type(rest: str) -> str | None:
    """The type of sample that the name states outside its well; None if it states none or several."""
    kinds = {kind for kind, pattern in _TYPES_IN_NAMES if pattern.search(rest)}
    return kinds.pop() if len(kinds) == 1 else None


def _metres(text: str, unit: str) -> float | None:
    """The depth; None where the number could be read in two ways, or no well is so deep."""
    in_feet = unit.lower() in ("ft", "feet", "foot")
    if _THOUSANDS.fullmatch(text) and (in_feet or text.count(",") > 1):
        text = text.replace(",", "")
    elif _EITHER.fullmatch(text) and not text.startswith("0"):
        return None
    number = float(text.replace(",", "."))
    depth = round(number * _METRES_PER_FOOT, 3) if in_feet else number
    return depth if 0 < depth <= PLAUSIBLE_DEPTH_M[1] else None
