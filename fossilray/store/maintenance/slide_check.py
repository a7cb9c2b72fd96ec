"""The check of one committed slide: its objects file, its footer and its arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.core.errors import StoreError, StoreUnreachable
from fossilray.core.records import SlideSummary
from fossilray.core.schemas import NEW_OBJECT_COLUMNS, OBJECTS_SCHEMA, SCHEMA_VERSION
from fossilray.store.arrays.check import ArrayFaultKind, check_arrays
from fossilray.store.maintenance.orphans import ArrayGroup, list_array_groups
from fossilray.store.run.layout import ARRAYS, slide_of, well_of
from fossilray.store.run.objects_file import Footer, decode_objects, parse_tail, read_tail_of
from fossilray.store.run.run_store import RunStore

FindingKind = (
    ArrayFaultKind
    | Literal[
        "unread",
        "footer",
        "other run",
        "misplaced",
        "rows",
        "objects",
        "twice",
        "stray",
        "unknown",
        "lost",
        "copy",
    ]
    | Literal[
        "outdated", "derived", "summaries", "catalog", "record", "attempt", "heartbeat", "picture", "pending"
    ]
    | Literal["coder", "shard", "plan", "labels", "samples"]
)
"""Kinds of findings in a run; all except `summaries` and `copy` are damage."""


@dataclass(frozen=True)
class VerifyFinding:
    """Something in a run directory that should not be so."""

    slide_id: str
    """Empty for a finding about the whole run."""
    path: str
    """The file in question, relative to the run directory."""
    kind: FindingKind
    message: str
    """One sentence with the remedy."""


@dataclass(frozen=True)
class SlideCheck:
    """Result of the check of one committed slide."""

    slide_id: str
    summary: SlideSummary | None
    """None if the footer cannot be read."""
    array_bytes: int
    findings: tuple[VerifyFinding, ...]
    others: tuple[ArrayGroup, ...]
    """Arrays of this slide that its commit does not name."""


def verify_slide(store: RunStore, path: str, *, run_digest: str | None, deep: bool) -> SlideCheck:
    """Check the files of a committed slide; `path` is its objects file.

    run_digest: digest of the run's record; None if that cannot be read. deep: read and decode every array file and
    every row, not only footer, metadata and sizes.

    Raises:
        StoreUnreachable: the store cannot be reached.
    """
    slide_id = slide_of(path)
    try:
        # The arrays are listed after the footer is read: a commit comes last, so what it names is there.
        tail = read_tail_of(lambda size: store.files.read_tail(path, size))
        groups = list_array_groups(store, slide_id)
    except StoreUnreachable:
        raise
    except (StoreError, FileNotFoundError) as error:
        return SlideCheck(slide_id, None, 0, (_unread(slide_id, path, error),), ())
    try:
        footer, rows = parse_tail(tail, name=path)
    except StoreError as error:
        return SlideCheck(slide_id, None, 0, (VerifyFinding(slide_id, path, "footer", str(error)),), ())
    mine = next((group for group in groups if group.path == footer.arrays.path), None)
    findings: list[VerifyFinding] = []
    try:
        findings += _compare_footer(path, footer, rows, run_digest)
        findings += _check_arrays(store, path, footer, mine, deep=deep)
        if deep:
            findings += _check_rows(path, store.files.read(path), footer)
    except StoreUnreachable:
        raise
    except (StoreError, FileNotFoundError) as error:
        findings.append(_unread(slide_id, path, error))
    return SlideCheck(
        slide_id,
        footer.summary,
        mine.bytes if mine else 0,
        tuple(findings),
        tuple(group for group in groups if group is not mine),
    )


def _compare_footer(path: str, footer: Footer, rows: int, run_digest: str | None) -> Iterator[VerifyFinding]:
    slide_id, summary = slide_of(path), footer.summary
    if summary.slide_id != slide_id:
        yield _redo(path, path, "misplaced", f"is the slide {summary.slide_id} by its footer")
    if well_of(path) != summary.well:
        yield _redo(path, path, "misplaced", f"is of the well {summary.well} by its footer")
    # Not by layout.arrays_path, which refuses what a flipped bit may have made of a name.
    if footer.arrays.path != f"{ARRAYS}/{slide_id}/{footer.attempt}.zarr":
        yield _redo(path, path, "misplaced", f"names the arrays {footer.arrays.path}, which are not its own")
    if run_digest is not None and footer.run_digest != run_digest:
        yield _redo(path, path, "other run", "was made with other settings or weights than run.json states")
    if rows != summary.objects:
        yield _redo(
            path, path, "rows", f"holds {rows:,} rows and its footer counts {summary.objects:,} objects"
        )


def _check_arrays(
    store: RunStore, path: str, footer: Footer, mine: ArrayGroup | None, *, deep: bool
) -> Iterator[VerifyFinding]:
    sizes = mine.files if mine else {}
    for fault in check_arrays(store, footer.arrays, sizes, objects=footer.summary.objects, deep=deep):
        if fault.kind == "extra":
            message = f"{fault.path} {fault.what}; delete it, nothing reads it"
            yield VerifyFinding(slide_of(path), fault.path, "extra", message)
        else:
            yield _redo(path, fault.path, fault.kind, fault.what)


def _check_rows(path: str, content: bytes, footer: Footer) -> Iterator[VerifyFinding]:
    try:
        table = decode_objects(content, name=path)
    except StoreError as error:
        yield VerifyFinding(slide_of(path), path, "objects", str(error))
        return
    for what in _odd_rows(table, footer):
        yield _redo(path, path, "objects", what)


def _odd_rows(table: pa.Table, footer: Footer) -> Iterator[str]:
    """Yield descriptions of inconsistent rows of one slide."""
    stored = [field for field in OBJECTS_SCHEMA if field.name not in NEW_OBJECT_COLUMNS]
    is_old = footer.schema_version < SCHEMA_VERSION and table.schema.equals(pa.schema(stored))
    if not (is_old or table.schema.equals(OBJECTS_SCHEMA)):
        yield "has other columns than this version of fossilray writes"
        return
    summary = footer.summary
    for name, expected in (
        ("slide_id", summary.slide_id),
        ("arrays", footer.arrays.path),
        ("measured_depth_m", summary.measured_depth_m),
    ):
        if set(table[name].unique().to_pylist()) - {expected}:
            yield f"holds rows whose {name} is not {expected}"
    numbers = {
        name: table[name].to_numpy()
        for name in (
            "object_id",
            "x_min",
            "y_min",
            "x_max",
            "y_max",
            "width_um",
            "height_um",
            "score",
            "overlap",
        )
    }
    for what, is_odd in _rules(numbers, summary):
        rows = np.flatnonzero(is_odd)
        if rows.size:
            yield f"has {what} in {rows.size:,} rows, the first in row {rows[0]}"
    for name in ("opacity", "sharpness", "mean_r", "mean_g", "mean_b"):
        if table[name].null_count != summary.crops_failed:
            yield f"lacks {name} in {table[name].null_count:,} rows where {summary.crops_failed:,} crops failed"


def _rules(
    numbers: dict[str, NDArray[np.generic]], summary: SlideSummary
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield each possible fault of a row, with a mask of the rows that have it."""
    x_min, y_min, x_max, y_max = (
        numbers[name].astype(np.int64) for name in ("x_min", "y_min", "x_max", "y_max")
    )
    yield "an object_id that is not its index", numbers["object_id"] != np.arange(len(x_min))
    yield "a box without area", (x_min >= x_max) | (y_min >= y_max)
    outside = (x_min < 0) | (y_min < 0) | (x_max > summary.width) | (y_max > summary.height)
    yield "a box outside the slide", outside
    for name, side in (("width_um", x_max - x_min), ("height_um", y_max - y_min)):
        # float32 keeps seven digits
        yield f"a {name} that is not its box's", ~np.isclose(numbers[name], side * summary.mpp, rtol=1e-5)
    for name in ("score", "overlap"):
        value = numbers[name].astype(np.float64)
        yield f"a {name} outside 0 to 1", ~((value >= 0) & (value <= 1))


def _redo(objects: str, path: str, kind: FindingKind, what: str) -> VerifyFinding:
    message = (
        f"{path} {what}; move {objects} out of objects/ and start the same command again, which makes the "
    )
    return VerifyFinding(slide_of(objects), path, kind, message + "slide again")


def _unread(slide_id: str, path: str, error: Exception) -> VerifyFinding:
    if isinstance(error, FileNotFoundError):
        what = f"{path} or a file of its arrays was listed and was gone a moment later; verify again"
    else:
        what = f"{path}: {error}"
    return VerifyFinding(slide_id, path, "unread", what)
