"""Sentence about the focus planes of the slides of a run."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from fossilray.core.text import counted


def describe_planes(slides: pa.Table) -> str | None:
    """Return how many committed slides have focus planes and of how many these were read; None if none has.

    slides: table in SLIDES_SCHEMA.
    """
    with_planes = slides.filter(pc.greater(slides["planes"], 1))
    if not with_planes.num_rows:
        return None
    least, most = pc.min_max(with_planes["planes"]).as_py().values()
    read = with_planes.filter(pc.greater(with_planes["planes_read"], 1)).num_rows
    number = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    slides_shown = f"{counted(with_planes.num_rows, 'slide')} of {slides.num_rows:,}"
    return f"{slides_shown} with {number} focus planes, which were read on {read:,}"
