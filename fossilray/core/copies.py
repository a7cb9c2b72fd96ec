"""Copies of a scan under several names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc


class Scanned(Protocol):
    """A slide, in a catalog or committed."""

    @property
    def slide_id(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def scan_id(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class _Scan:
    slide_id: str
    path: str
    scan_id: str | None


def find_copies_in(slides: pa.Table) -> dict[str, str]:
    """Return what `find_copies` does, for a table with the columns of `slides`.

    A table without copies, as nearly all are, is not walked row by row.
    """
    keys = (slides["path"], slides["scan_id"].drop_null())
    if all(pc.count_distinct(values).as_py() == len(values) for values in keys):
        return {}
    columns = (slides[name].to_pylist() for name in ("slide_id", "path", "scan_id"))
    return find_copies(_Scan(*values) for values in zip(*columns, strict=True))


def find_copies(slides: Iterable[Scanned]) -> dict[str, str]:
    """Return the original of each copy, by slide_id: the first slide by slide_id with the same scan or path.

    The scan_id of a slide is None where it is unknown; then only the path is compared.
    """
    originals: dict[str, str] = {}
    copies: dict[str, str] = {}
    for slide in sorted(slides, key=lambda slide: slide.slide_id):
        keys = [key for key in (slide.path, slide.scan_id) if key]
        original = next((originals[key] for key in keys if key in originals), None)
        if original is not None:
            copies[slide.slide_id] = original
        for key in keys:
            originals.setdefault(key, original or slide.slide_id)
    return copies


def describe_copies(copies: Mapping[str, str]) -> str | None:
    """Return one sentence on slides that are copies of others; None if there are none."""
    if not copies:
        return None
    copy, original = min(copies.items())
    if len(copies) == 1:
        return f"{copy} is the same scan as {original}, so its objects count twice; slides.unique_scans leaves it out"
    return (
        f"{len(copies):,} slides are the same scans as others, {copy} as {original} among them, so their objects count "
        "twice; slides.unique_scans leaves them out"
    )
