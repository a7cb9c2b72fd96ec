"""Import of a table of samples: the values that differ from the current ones become a round, all or nothing."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fossilray.core.errors import FossilrayError
from fossilray.core.formats.regular_file import read_regular
from fossilray.core.records import CatalogRow
from fossilray.core.sample_terms import describe_interval_fault
from fossilray.core.slide_sample import SlideSample
from fossilray.core.text import counted, list_some, strip_control_characters
from fossilray.core.user_table import MAX_BYTES
from fossilray.store.samples.corrections import iter_samples, merge_rounds
from fossilray.store.samples.rounds import SampleChange, SampleRound, SampleRounds, SampleValue
from fossilray.store.samples.table import AS_OF, SampleRow, SampleTable, read_sample_table

_DEPTHS = ("top_depth_m", "base_depth_m")
_SPIKE = ("marker", "marker_tablets", "grains_per_tablet")
_SPREADSHEET_PRECISION = 1e-8
_ROUNDING_M = 0.01
_MOST_NOTES = 10


@dataclass(frozen=True)
class SampleImport:
    """Result of an import."""

    round: SampleRound | None
    """None: nothing in the table differs from what is known, or nothing was to be written."""
    changes: tuple[SampleChange, ...]
    slides: int
    """Slides in the table."""
    notes: tuple[str, ...]
    """Sentences for the user: what is odd and may be right."""


def import_round(
    path: Path,
    catalog: Sequence[CatalogRow],
    rounds: SampleRounds,
    *,
    who: str,
    is_kept: bool = True,
) -> SampleImport:
    """Commit the values of a table that differ from the samples as they are, as a new round.

    catalog: the slides of the run. is_kept: False: only return what would be committed.

    Raises:
        UsageError: the table is refused, names a slide that the run lacks, or contradicts itself or a later round.
        StoreError: the run cannot be written.
    """
    source = strip_control_characters(path.name)
    while True:
        before = rounds.all()
        current = {sample.slide_id: sample for sample in iter_samples(catalog, merge_rounds(before))}
        wells = [sample.well for sample in current.values() if sample.well is not None]
        table = read_sample_table(path, wells=wells)
        _require_slides(table, current, path)
        changes = tuple(_changes(table, current, _bases(catalog, before)))
        notes = _check(table, current, changes)
        if not changes or not is_kept:
            return SampleImport(None, changes, len(table.rows), notes)
        digest = hashlib.sha256(read_regular(path, most_bytes=MAX_BYTES)).hexdigest()
        added = rounds.add(
            changes,
            after=before[-1].number if before else 0,
            who=strip_control_characters(who.strip()) or "unknown",
            source=source,
            source_sha256=digest,
        )
        if added is not None:
            return SampleImport(added, changes, len(table.rows), notes)


def as_of_rounds(rounds: Sequence[SampleRound]) -> str:
    """The content of the column as_of of an export after these rounds."""
    return f"round {rounds[-1].number} {rounds[-1].digest}" if rounds else "round 0"


def _require_slides(table: SampleTable, current: Mapping[str, SlideSample], path: Path) -> None:
    unknown = [row for row in table.rows if row.slide_id not in current]
    if not unknown:
        return
    names = list_some(row.slide_id for row in unknown)
    if len(unknown) == len(table.rows):
        raise unknown[0].row.error(
            f"none of the {len(unknown):,} slides is in this run ({names}); name the run that they are of",
            "slide_id",
        )
    raise unknown[0].row.error(
        f"{counted(len(unknown), 'slide')} of {path.name} not in this run: {names}; correct slide_id, or remove the "
        "lines of slides of another run",
        "slide_id",
    )


def _bases(
    catalog: Sequence[CatalogRow], rounds: Sequence[SampleRound]
) -> Callable[[SampleRow], SlideSample | None]:
    """Return a function that gives the sample of a row's slide as it was when the table was exported.

    It gives None for a table that was not exported, and raises a UsageError for an export of another run.
    """
    known: dict[str, dict[str, SlideSample]] = {}

    def base(row: SampleRow) -> SlideSample | None:
        if not row.as_of:
            return None
        if row.as_of not in known:
            stated = [count for count in range(len(rounds) + 1) if as_of_rounds(rounds[:count]) == row.as_of]
            if not stated:
                raise row.row.error(
                    f"{AS_OF} is {row.as_of!r:.40}, which is no round of this run; export the table from this run, or "
                    f"remove the column {AS_OF} to compare with the samples as they are now",
                    AS_OF,
                )
            then = merge_rounds(rounds[: stated[0]])
            known[row.as_of] = {sample.slide_id: sample for sample in iter_samples(catalog, then)}
        return known[row.as_of][row.slide_id]

    return base


def _changes(
    table: SampleTable,
    current: Mapping[str, SlideSample],
    base_of: Callable[[SampleRow], SlideSample | None],
) -> Iterator[SampleChange]:
    for row in table.rows:
        now, base = current[row.slide_id], base_of(row)
        changed: dict[str, SampleValue] = {}
        for column, value in row.values.items():
            is_value: SampleValue = getattr(now, column)
            if _is_same(value, is_value):
                continue
            was_value: SampleValue = is_value if base is None else getattr(base, column)
            if _is_same(value, was_value):
                continue  # it was corrected since the export, in which it is unchanged
            if not _is_same(is_value, was_value):
                raise row.row.error(
                    f"{column} of slide {row.slide_id} became {_shown(is_value)} since this table was exported, where "
                    f"it was {_shown(was_value)} and now is {_shown(value)}; export it again",
                    column,
                )
            changed[column] = value
        if changed.keys() & set(_DEPTHS):
            # Both ends together, so that the middle follows from one round.
            changed = {name: getattr(now, name) for name in _DEPTHS} | changed
        yield from (
            SampleChange(row.slide_id, column, getattr(now, column), value)
            for column, value in changed.items()
        )


def _check(
    table: SampleTable, current: Mapping[str, SlideSample], changes: Sequence[SampleChange]
) -> tuple[str, ...]:
    """Check the samples as they would be, and return notes.

    Raises:
        UsageError: a changed sample is incomplete or contradicts itself or another one.
    """
    new: dict[str, dict[str, SampleValue]] = {}
    for change in changes:
        new.setdefault(change.slide_id, {})[change.column] = change.now
    after = {
        slide_id: SlideSample(**{**vars(sample), **new.get(slide_id, {})})
        for slide_id, sample in current.items()
    }
    rows = {row.slide_id: row for row in table.rows}
    for slide_id in new:
        if fault := _fault(after[slide_id]):
            raise _refuse(rows[slide_id], fault[1], fault[0])
    _check_depths_of_samples(after, rows, new)
    notes = list(_describe_overlaps(after, {after[slide_id].well for slide_id in new}))
    if len(notes) > _MOST_NOTES:
        notes = [*notes[:_MOST_NOTES], f"{len(notes) - _MOST_NOTES:,} more overlaps"]
    if table.not_read:
        notes.append(f"columns that were not read: {list_some(table.not_read, most=20)}")
    return tuple(notes)


def _fault(sample: SlideSample) -> tuple[str, str] | None:
    """Column and sentence on what is wrong with a sample by itself; None: nothing."""
    if sample.well is None and any(
        value is not None
        for name, value in vars(sample).items()
        if name not in ("slide_id", "well", "remark")
    ):
        return "well", f"slide {sample.slide_id} has a sample and no site; fill the column well"
    return (
        describe_interval_fault(sample.top_depth_m, sample.base_depth_m)
        or _vertical_fault(sample)
        or _spike_fault(sample)
    )


def _vertical_fault(sample: SlideSample) -> tuple[str, str] | None:
    if sample.tvd_m is None:
        return None
    if sample.base_depth_m is None:
        reason = (
            f"tvd_m is {sample.tvd_m:g} and the measured depth is unknown; give top_depth_m and base_depth_m"
        )
        return "tvd_m", reason
    if sample.tvd_m <= sample.base_depth_m + _ROUNDING_M:
        return None
    return (
        "tvd_m",
        f"tvd_m is {sample.tvd_m:g}, deeper than the measured depth {sample.base_depth_m:g}; no well is deeper than it "
        "is long: exchange or correct them",
    )


def _spike_fault(sample: SlideSample) -> tuple[str, str] | None:
    stated = [name for name in _SPIKE if getattr(sample, name) is not None]
    missing = next((name for name in _SPIKE if name not in stated), None)
    if missing is not None:
        if not stated and sample.grains_per_tablet_sd is not None:
            stated = ["grains_per_tablet_sd"]
        reason = (
            f"{missing} is empty and {stated[0]} is not; a spike needs {', '.join(_SPIKE)}"
            if stated
            else None
        )
        return None if reason is None else (missing, reason)
    if sample.weight_g is not None or sample.volume_ml is not None:
        return None
    return (
        "weight_g",
        f"slide {sample.slide_id} has a spike and neither weight_g nor volume_ml, so no concentration follows; fill "
        "one of them",
    )


def _check_depths_of_samples(
    after: Mapping[str, SlideSample], rows: Mapping[str, SampleRow], changed: Mapping[str, object]
) -> None:
    """Require that the slides of a named sample have one depth.

    Raises:
        UsageError: a changed slide has another depth than a slide of its sample.
    """
    first: dict[tuple[str | None, str], SlideSample] = {}
    for slide_id, sample in after.items():
        if sample.sample is None:
            continue
        other = first.setdefault((sample.well, sample.sample), sample)
        ends, others = ((slide.top_depth_m, slide.base_depth_m) for slide in (sample, other))
        named = slide_id if slide_id in changed else other.slide_id
        if ends != others and named in changed:
            raise _refuse(
                rows[named],
                f"sample {sample.sample} of {sample.well} has two depths: {_interval(*others)} m on slide "
                f"{other.slide_id}, {_interval(*ends)} m on {slide_id}; correct one, or name two samples",
                "top_depth_m",
            )


def _describe_overlaps(after: Mapping[str, SlideSample], wells: set[str | None]) -> Iterator[str]:
    """Yield a note for each two neighbouring samples of one site and type whose intervals overlap."""
    groups: dict[tuple[str, str | None], dict[tuple[float, float], str]] = {}
    for sample in after.values():
        top, base = sample.top_depth_m, sample.base_depth_m
        if (
            sample.well in wells
            and sample.well is not None
            and top is not None
            and base is not None
            and top < base
        ):
            groups.setdefault((sample.well, sample.sample_type), {}).setdefault((top, base), sample.slide_id)
    for (well, kind), intervals in sorted(groups.items(), key=str):
        ordered = sorted(intervals)
        for upper, lower in itertools.pairwise(ordered):
            if lower[0] < upper[1]:
                yield (
                    f"{well}: {_interval(*upper)} m (slide {intervals[upper]}) and {_interval(*lower)} m (slide "
                    f"{intervals[lower]}) overlap, both {kind or 'of no stated type'}; check their depths"
                )


def _refuse(row: SampleRow, reason: str, column: str) -> FossilrayError:
    return row.row.error(reason, column if row.row.table.position(column) is not None else "slide_id")


def _is_same(first: SampleValue, second: SampleValue) -> bool:
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=_SPREADSHEET_PRECISION, abs_tol=1e-9)
    return first == second


def _shown(value: SampleValue) -> str:
    return "empty" if value is None else f"{value:.12g}" if isinstance(value, float) else value


def _interval(top: float | None, base: float | None) -> str:
    if top is None or base is None:
        return "no"
    return f"{top:g}" if top == base else f"{top:g}-{base:g}"
