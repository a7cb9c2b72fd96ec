"""Focus levels as the Slidedat.ini of a MIRAX slide states them."""

from __future__ import annotations

from pathlib import Path


def add_focus_levels(slide: Path, count: int) -> None:
    """State focus levels in Slidedat.ini, as the scanner's software does."""
    path = slide.with_suffix("") / "Slidedat.ini"
    lines = path.read_bytes().splitlines(keepends=True)
    end = lines[0][len(lines[0].rstrip(b"\r\n")) :]
    at = next(number for number, line in enumerate(lines) if line.startswith(b"HIER_COUNT"))
    hierarchies = int(lines[at].partition(b"=")[2])
    keys = [f"HIER_{hierarchies}_NAME = Microscope focus level", f"HIER_{hierarchies}_COUNT = {count}"]
    keys += [f"HIER_{hierarchies}_VAL_{level} = FocusLevel_{level}" for level in range(count)]
    keys += [
        f"HIER_{hierarchies}_VAL_{level}_SECTION = LAYER_{hierarchies}_LEVEL_{level}_SECTION"
        for level in range(count)
    ]
    lines[at] = f"HIER_COUNT = {hierarchies + 1}".encode() + end
    lines[at + 1 : at + 1] = [key.encode() + end for key in keys]
    path.write_bytes(b"".join(lines))
