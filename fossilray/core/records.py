"""Records that are passed between rooms or written as rows and JSON; `schemas` derives table columns from them.

Coordinates are level-0 pixels in OpenSlide's frame: x before y, origin top left.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import pyarrow as pa

from fossilray.core.errors import NAMES_BEFORE, FossilrayError, SlideError, SourceOut
from fossilray.core.exception_summary import ExceptionSummary, summarise_exception

READABLE_VERSIONS = (4, 5, 6, 7)
"""Schema versions of runs and datasets that can be read and resumed; columns that older ones lack are null."""

UNASSIGNED_WELL = "unassigned"
"""Well of slides for which none is known."""


@dataclass(frozen=True)
class Doubt:
    """A finding that makes a slide questionable; a slide is not refused for it unless `slides.strict_doubts` does."""

    code: str
    """One of `DOUBT_CODES` in `fossilray.core.doubt_codes`."""
    value: float | None
    """The measured value, in the unit that the sentence names; None where the finding has none."""
    sentence: str
    """What was found, what was expected, and what to do, for the user."""


@dataclass(frozen=True)
class ExtraValue:
    """A value of a column that the user's catalog has besides those of fossilray."""

    column: str
    value: str


@dataclass(frozen=True)
class CatalogRow:
    """A slide of the catalog; fields are None where the value is unknown."""

    slide_id: str
    path: str
    vendor: str | None = None
    width: int | None = None
    height: int | None = None
    mpp: float | None = None
    levels: Annotated[int, pa.int32()] | None = None
    bounds_x: int | None = None
    bounds_y: int | None = None
    bounds_width: int | None = None
    bounds_height: int | None = None
    well: str | None = None
    measured_depth_m: float | None = None
    """The middle of the interval from top_depth_m to base_depth_m."""
    top_depth_m: float | None = None
    """Measured depths between which the sample was taken. This field and the next four are None before version 7."""
    base_depth_m: float | None = None
    """Equal to top_depth_m for a sample of one depth."""
    depth_unit: str | None = None
    """`m` or `ft`: in what the depths were given."""
    sample_type: str | None = None
    """One of SAMPLE_TYPES in `fossilray.core.sample_terms`, or another as the user's catalog has it."""
    preparation: str | None = None
    """How the slide was prepared from its sample, as the user's catalog has it: kerogen, oxidised."""
    mpp_from: str | None = None
    """`slide`, `sidecar`, `catalog` or `config`: what states `mpp`. From here on None in runs before version 6."""
    planes: Annotated[int, pa.int32()] | None = None
    """Number of focus planes that the slide stores."""
    scan_id: str | None = None
    """Identity of the scan, equal for copies under other names."""
    doubts: tuple[Doubt, ...] | None = None
    """Findings of the checks before processing; empty if there are none, None if the slide was not checked."""
    extra: tuple[ExtraValue, ...] | None = None
    """Columns of the user's catalog that fossilray does not know, in their order; empty cells are left out."""

    def __post_init__(self) -> None:
        _restore_lists(self)


@dataclass(frozen=True)
class RejectedFile:
    """A file with the name of a slide that cannot be opened as one."""

    slide_id: str
    path: str
    reason: str
    error: str = "NotASlide"
    """Name of the class of errors."""


@dataclass(frozen=True)
class SlideSummary:
    """A row of `slides`: counts, losses and times of a committed slide."""

    slide_id: str
    path: str
    well: str
    measured_depth_m: float | None
    """The middle of the interval from top_depth_m to base_depth_m."""
    vendor: str
    width: int
    height: int
    mpp: float
    bounds_x: int
    bounds_y: int
    bounds_width: int
    bounds_height: int
    scanned_mm2: float
    tiles_planned: Annotated[int, pa.int32()]
    tiles_blank: Annotated[int, pa.int32()]
    tiles_read: Annotated[int, pa.int32()]
    tiles_failed: Annotated[int, pa.int32()]
    content_mm2: float
    """Scanned area of the finest pass's foreground tiles, without halos; at most scanned_mm2."""
    detector_megapixels: float
    """Pixels that the detector processed in all passes, halos included, in 1e6 px of its scales."""
    device: str
    """Device and precision of the networks: `cpu/bfloat16`."""
    objects: Annotated[int, pa.int32()]
    crops_coarser: Annotated[int, pa.int32()]
    """Crops extracted from a coarser level because the intended one was unreadable."""
    crops_failed: Annotated[int, pa.int32()]
    """Objects whose pixels could not be read from any level; their measures are null."""
    array_bytes: int
    seconds_fetch: float
    seconds_open: float
    seconds_detect: float
    seconds_merge: float
    seconds_crops: float
    seconds_embed: float
    seconds_write: float
    seconds_total: float
    attempt: str
    host: str
    finished_at: str
    """UTC, ISO 8601."""
    boxes_outside: Annotated[int, pa.int32()] | None = None
    """Boxes outside the scanned area, which were dropped. This field and all below are None in runs of version 4."""
    lost_share: float | None = None
    """Largest share of a pass's foreground that could not be read; `slides.max_lost_share` bounds it."""
    pass_um_per_px: tuple[float, ...] | None = None
    """Scale of each pass, from fine to coarse."""
    pass_foreground_mm2: tuple[float, ...] | None = None
    """Foreground area of each pass."""
    pass_lost_mm2: tuple[float, ...] | None = None
    """Foreground area of each pass in tiles that could not be read."""
    mpp_from: str | None = None
    """`slide`, `sidecar`, `catalog` or `config`: what states `mpp`. All from here on are None before version 6."""
    planes: Annotated[int, pa.int32()] | None = None
    """Number of focus planes that the slide stores."""
    scan_id: str | None = None
    """Identity of the scan, equal for copies under other names."""
    doubts: tuple[Doubt, ...] | None = None
    """Findings of the checks before and after processing; empty if there are none."""
    extra: tuple[ExtraValue, ...] | None = None
    """Columns of the user's catalog that fossilray does not know."""
    longest_um_quartiles: tuple[float, ...] | None = None
    """25th, 50th and 75th percentile of the objects' longest side in um; empty without objects."""
    planes_read: Annotated[int, pa.int32()] | None = None
    """Number of focus planes that were read. None before version 7."""
    top_depth_m: float | None = None
    """As in CatalogRow. This field and all below are None before version 7."""
    base_depth_m: float | None = None
    depth_unit: str | None = None
    sample_type: str | None = None
    preparation: str | None = None

    def __post_init__(self) -> None:
        _restore_lists(self)

    @property
    def finest_lost_share(self) -> float:
        """Share of the finest pass's foreground that could not be read; in runs of version 4, share of all tiles."""
        if self.pass_lost_mm2 and self.pass_foreground_mm2:
            return self.pass_lost_mm2[0] / max(self.pass_foreground_mm2[0], 1e-12)
        return self.tiles_failed / max(self.tiles_planned - self.tiles_blank, 1)


def _restore_lists(record: CatalogRow | SlideSummary) -> None:
    """Turn the lists that Parquet and JSON give into tuples, of records where the field has records."""
    kinds = {"doubts": Doubt, "extra": ExtraValue}
    for name, value in vars(record).items():
        if isinstance(value, (list, tuple)):
            kind = kinds.get(name)
            items = (kind(**item) if kind and isinstance(item, Mapping) else item for item in value)
            object.__setattr__(record, name, tuple(items))


def lost_share_of(slides: Iterable[SlideSummary]) -> float:
    """Share of the slides' foreground that the finest pass could not read, weighted by area."""
    lost = whole = 0.0
    for slide in slides:
        lost += slide.finest_lost_share * slide.content_mm2
        whole += slide.content_mm2
    return lost / whole if whole > 0 else 0.0


@dataclass(frozen=True)
class Attempt:
    """One attempt at processing a slide. Its id is random, so the files of two attempts never have the same name."""

    slide_id: str
    attempt: str
    host: str
    started_at: str
    deadline_at: str


@dataclass(frozen=True)
class Failure:
    """A row of `failures`: the reason why an attempt ended without a commit."""

    slide_id: str
    attempt: str
    stage: str
    error: str
    message: str
    transient: bool
    quarantined: bool
    host: str
    failed_at: str
    place: str | None = None
    """File and line that raised an unexpected exception: `fossilray/store/cost.py:120`."""
    traceback: str | None = None
    """Traceback of an unexpected exception, or of one that ran out of memory; shortened."""
    root: str | None = None
    """Folder or bucket that was unreachable; the failure does not count against the slide."""
    given_up: bool | None = None
    """Whether the job gave up on the slide, so that only a later job tries it again; None: not recorded."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "error", NAMES_BEFORE.get(self.error, self.error))

    @staticmethod
    def of(
        error: BaseException | ExceptionSummary,
        *,
        slide_id: str,
        stage: str,
        attempt: str | None = None,
        cause: BaseException | None = None,
        expected: type[FossilrayError] = SlideError,
        transient: bool | None = None,
    ) -> Failure:
        """Record an exception as the failure of an attempt, now and on this host.

        Args:
            error: the exception, or its summary.
            slide_id: slide of the attempt, or shard.
            stage: what the attempt was doing.
            attempt: id of the attempt; by default a new random one.
            cause: the exception that `error` explains, if it is another one; its traceback is kept.
            expected: class of errors whose message is enough: no location is recorded for them, and no traceback for a
                `cause` of this class.
            transient: whether another attempt may succeed; a failure that is not transient is quarantined. By default
                an expected error decides by its own `transient`, and any other is transient.
        """
        is_expected = isinstance(error, expected)
        if transient is None:
            transient = not is_expected or bool(getattr(error, "transient", False))
        if isinstance(error, ExceptionSummary):
            summary, trace = error, error.traceback
        else:
            summary = summarise_exception(error)
            origin = cause or error
            trace = None if isinstance(origin, expected) else summarise_exception(origin).traceback
        return Failure(
            slide_id=slide_id,
            attempt=attempt or secrets.token_hex(8),
            stage=stage,
            error=summary.error,
            message=summary.message,
            transient=transient,
            quarantined=not transient,
            given_up=False,
            host=socket.gethostname(),
            failed_at=utc_now(),
            place=None if is_expected else summary.location,
            traceback=trace,
            root=error.root if isinstance(error, SourceOut) else None,
        )

    @property
    def is_unexpected(self) -> bool:
        """Whether the fault may lie in the program or in a library rather than in the slide."""
        return self.place is not None


@dataclass(frozen=True)
class ArrayFiles:
    """Files that an attempt wrote below arrays/: a Zarr group, with size and checksum of each file."""

    path: str
    """Path of the group below the run directory, as in the column `arrays` of its objects."""
    bytes: dict[str, int]
    """Size of each file, by its path relative to the group."""
    sha256: dict[str, str]
    """SHA-256 of each file, hexadecimal, by the same paths."""

    @property
    def total_bytes(self) -> int:
        return sum(self.bytes.values())


@dataclass(frozen=True)
class FileEntry:
    """A file in a listing of a run directory."""

    path: str
    """Relative to the run directory."""
    bytes: int
    modified: datetime
    """UTC, by the clock of the store."""


@dataclass(frozen=True)
class ResourceUsage:
    """Resources that an attempt used on its worker, however it ended."""

    seconds: float
    network_busy_s: float
    """Seconds in which a network processed a batch; in the others the GPU waited."""
    read_bytes: int
    """Bytes that the worker's process read from files; 0 on systems that do not count them."""
    fetched_bytes: int
    """Bytes downloaded from an object store, including those of the next slide."""


@dataclass(frozen=True)
class Outcome:
    """Result of an attempt. With neither summary nor failure, another attempt had committed the slide."""

    slide_id: str
    summary: SlideSummary | None = None
    failure: Failure | None = None
    submitted: bool = False
    """The objects file waits below pending/ for the driver to commit it (`store.single_writer`)."""
    derived_rows: int | None = None
    """Rows that an inference job or an index build committed; None in a slide job."""
    usage: ResourceUsage | None = field(default=None, compare=False)


@dataclass(frozen=True)
class WorkItem:
    """One unit of work of a job: a slide to process, a stored slide for inference, or a shard of an index."""

    key: str
    """Unique within the job; the `slide_id` of its failures and of its worker's status."""
    payload: Any = None
    """What the job's worker needs beside the key; each job states its type."""
    source: str = ""
    """Path or URL that the item is read from, by whose folder or bucket outages are found; empty: none."""

    @classmethod
    def of_slide(cls, row: CatalogRow) -> WorkItem:
        """A slide to process; its payload is the row."""
        return cls(row.slide_id, row, source=row.path)


def utc_now() -> str:
    """The current time in UTC, ISO 8601 with seconds, as in all records."""
    return datetime.now(UTC).isoformat(timespec="seconds")
