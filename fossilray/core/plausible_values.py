"""Ranges of um per pixel and of measured depths, beyond which a value is a mistake in a table or a file."""

from __future__ import annotations

PLAUSIBLE_MPP = (0.01, 20.0)
"""A file that states a printer's resolution (72 dpi is 353 um per pixel) does not describe its scan."""
PLAUSIBLE_DEPTH_M = (-500.0, 15_000.0)
"""The deepest well has 15,000 m (Z-44 Chayvo); depths above sea level are negative in some archives."""


def why_no_mpp(value: float) -> str | None:
    """Why a value is no um per pixel, for messages; None if it may be one."""
    low, high = PLAUSIBLE_MPP
    if low <= value <= high:
        return None
    hint = ""
    if value > high and low <= value / 1000 <= high:
        hint = f"; is it in nm? {value:g} nm are {value / 1000:g} um"
    elif 0 < value < low <= value * 1000 <= high:
        hint = f"; is it in mm? {value:g} mm are {value * 1000:g} um"
    return f"not between {low:g} and {high:g} um per pixel{hint}"


def why_no_depth(value: float) -> str | None:
    """Why a value is no measured depth in metres, for messages; None if it may be one."""
    low, high = PLAUSIBLE_DEPTH_M
    if low <= value <= high:
        return None
    metres = value * 0.3048
    hint = f"; is it in feet? {value:,.10g} ft are {metres:,.1f} m" if 0 < metres <= high else ""
    return f"not between {low:,g} and {high:,g} m{hint}"
