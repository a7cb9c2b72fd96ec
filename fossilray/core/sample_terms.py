"""Words for samples: types, kinds of sites and units, with the abbreviations that name them; depths of intervals."""

from __future__ import annotations

SAMPLE_TYPES = ("ditch cuttings", "side-wall core", "core", "outcrop")
"""Types that charts tell apart; another type is kept as written."""
SITE_KINDS = ("well", "outcrop", "core hole")

CAVING_TYPES = ("ditch cuttings",)
"""Types of samples into which fossils fall from the beds above."""

_ROUNDING_M = 0.01

_TYPES = {
    "dc": "ditch cuttings",
    "cuttings": "ditch cuttings",
    "cutting": "ditch cuttings",
    "ditch cutting": "ditch cuttings",
    "ditchcuttings": "ditch cuttings",
    "swc": "side-wall core",
    "sidewall": "side-wall core",
    "sidewall core": "side-wall core",
    "side wall core": "side-wall core",
    "core": "core",
    "cores": "core",
    "cc": "core",
    "conventional core": "core",
    "outcrop": "outcrop",
}
_UNITS = {
    **dict.fromkeys(("m", "metre", "metres", "meter", "meters", "mmd"), "m"),
    **dict.fromkeys(("ft", "feet", "foot", "ftmd"), "ft"),
}
_SITES = {
    "well": "well",
    "borehole": "well",
    "outcrop": "outcrop",
    "core hole": "core hole",
    "corehole": "core hole",
}


def mid_depth(top_m: float | None, base_m: float | None) -> float | None:
    """The measured depth that stands for an interval: its middle, to the millimetre."""
    if top_m is None or base_m is None:
        return None
    return top_m if top_m == base_m else round((top_m + base_m) / 2, 3)


def describe_interval_fault(
    top_m: float | None, base_m: float | None, depth_m: float | None = None
) -> tuple[str, str] | None:
    """Column and sentence on what is wrong with an interval and the measured depth beside it; None: nothing."""
    if (top_m is None) != (base_m is None):
        given, missing = ("top", "base") if base_m is None else ("base", "top")
        return (
            f"{missing}_depth_m",
            f"{given}_depth_m is {top_m if base_m is None else base_m:g} and {missing}_depth_m is empty; give both, "
            "equal for a sample of one depth",
        )
    if top_m is None or base_m is None:
        return None
    if top_m > base_m:
        return (
            "base_depth_m",
            f"the interval {top_m:g} to {base_m:g} m is upside down; top_depth_m is the shallower one",
        )
    if depth_m is not None and not top_m - _ROUNDING_M <= depth_m <= base_m + _ROUNDING_M:
        return (
            "measured_depth_m",
            f"measured_depth_m is {depth_m:g}, outside the interval {top_m:g} to {base_m:g} m; correct one of them, or "
            "leave measured_depth_m empty",
        )
    return None


def describe_sample(
    well: str | None, top_m: float | None, base_m: float | None, sample_type: str | None
) -> str:
    """Site, depth and type of a sample: `6407/6-5 2030-2040 m ditch cuttings`; empty if none is known."""
    depth = None
    if top_m is not None and base_m is not None:
        depth = f"{top_m:.10g} m" if top_m == base_m else f"{top_m:.10g}-{base_m:.10g} m"
    return " ".join(filter(None, (well, depth, sample_type)))


def normalise_sample_type(text: str) -> str | None:
    """The type in SAMPLE_TYPES that a text names; another text with single spaces; None for an empty text."""
    plain = " ".join(text.split())
    key = plain.casefold().replace("-", " ").replace("_", " ")
    return _TYPES.get(key) or next(
        (kind for kind in SAMPLE_TYPES if kind.replace("-", " ") == key), plain or None
    )


def normalise_unit(text: str) -> str | None:
    """`m` or `ft`; None if the text names neither."""
    return _UNITS.get("".join(text.split()).casefold().rstrip("."))


def normalise_site_kind(text: str) -> str | None:
    """The kind in SITE_KINDS that a text names; None if it names none."""
    return _SITES.get(" ".join(text.replace("-", " ").replace("_", " ").split()).casefold())


def may_cave(sample_type: str | None) -> bool:
    """Whether fossils from above may be in a sample of this type, so that a first occurrence in it is too deep."""
    return sample_type in CAVING_TYPES
