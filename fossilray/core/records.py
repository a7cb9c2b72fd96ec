"""Types and table schemas that travel between files; every column name is spelled here and only here.

Frames: slide coordinates are level-0 pixels of OpenSlide's frame, x before y, origin top left.
Images are H x W x 3 uint8 RGB.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Protocol

import pyarrow as pa

from fossilray.core.errors import NAMES_BEFORE, FossilrayError, SlideError, SourceOut
from fossilray.core.exception_summary import ExceptionSummary, summarise_exception

READABLE_VERSIONS = (4, 5)
"""Versions of runs and datasets that are read and resumed; columns that they lack are null."""


UNASSIGNED_WELL = "unassigned"


@dataclass(frozen=True)
class CatalogRow:
    """One slide of the catalog; None where nobody knows."""

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


@dataclass(frozen=True)
class RejectedFile:
    """A file that looks like a slide and is not, with the reason."""

    slide_id: str
    path: str
    reason: str
    error: str = "NotASlide"
    """The class of what is wrong with it."""


@dataclass(frozen=True)
class SlideSummary:
    """One row of `slides`: a committed slide's counts, losses and times."""

    slide_id: str
    path: str
    well: str
    measured_depth_m: float | None
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
    """Scanned area in the finest pass's tiles that are not blank, their halos left out: never above scanned_mm2."""
    detector_megapixels: float
    """What the detector was shown in all passes, halos included, in 1e6 px of its scales."""
    device: str
    """What the networks ran on, and in which numbers: `cpu/bfloat16`."""
    objects: Annotated[int, pa.int32()]
    crops_coarser: Annotated[int, pa.int32()]
    """Crops cut from a coarser level because the right one was unreadable."""
    crops_failed: Annotated[int, pa.int32()]
    """Objects whose pixels no level could give; their measures are null."""
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
    """Boxes that lay outside the scanned area and were dropped; None in runs of version 4, as all below."""
    lost_share: float | None = None
    """The largest lost share of any pass, which `slides.max_lost_share` bounds."""
    pass_um_per_px: tuple[float, ...] | None = None
    """Scale of each pass, fine to coarse."""
    pass_foreground_mm2: tuple[float, ...] | None = None
    """Of each pass, the scanned area of what is not blank to it."""
    pass_lost_mm2: tuple[float, ...] | None = None
    """Of each pass, the foreground in tiles that could not be read."""

    def __post_init__(self) -> None:
        # Parquet and JSON give lists.
        for name in ("pass_um_per_px", "pass_foreground_mm2", "pass_lost_mm2"):
            values = getattr(self, name)
            object.__setattr__(self, name, None if values is None else tuple(values))

    @property
    def finest_lost_share(self) -> float:
        """Share of the finest pass's foreground that was lost; in runs of version 4, of the tiles of all passes."""
        if self.pass_lost_mm2 and self.pass_foreground_mm2:
            return self.pass_lost_mm2[0] / max(self.pass_foreground_mm2[0], 1e-12)
        return self.tiles_failed / max(self.tiles_planned - self.tiles_blank, 1)


def lost_share_of(slides: Iterable[SlideSummary]) -> float:
    """Share of these slides' foreground that the finest pass could not read, larger slides counting for more."""
    lost = whole = 0.0
    for slide in slides:
        lost += slide.finest_lost_share * slide.content_mm2
        whole += slide.content_mm2
    return lost / whole if whole > 0 else 0.0


@dataclass(frozen=True)
class Attempt:
    """One try at one slide; the id is random, so nobody else's files bear it."""

    slide_id: str
    attempt: str
    host: str
    started_at: str
    deadline_at: str


@dataclass(frozen=True)
class Failure:
    """Why an attempt ended without a commit; one row of `failures`."""

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
    """Of an exception that no rule expects, where in the program it was raised: `fossilray/store/cost.py:120`."""
    traceback: str | None = None
    """The end of its traceback, and that of a lack of memory."""
    root: str | None = None
    """The folder or the bucket that was out; the slide is not to blame."""
    given_up: bool | None = None
    """Whether the job gave the slide up, so that only a later start tries it again; None: not recorded."""

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
            expected: an `error` of this class says itself what is wrong, so no location is recorded; a `cause` of it
                leaves no traceback.
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
        """Whether it may be a fault of the program, or of a library, as well as of the slide."""
        return self.place is not None


@dataclass(frozen=True)
class WorkerStatus:
    """What one worker is doing: the slide, the stage, and the share of the stage that is done (0..1)."""

    slide_id: str
    stage: str
    share: float
    resident_bytes: int = 0
    """Memory of the worker's process, 0 where it is not known."""
    fetched_bytes: int = 0
    """While a slide is fetched: what this worker has read of slides so far."""
    waiting_reads: int = 0
    """Windows, or groups of crops, that the reading threads have before them."""
    waiting_batches: int = 0
    """Batches of pixels that wait for a network; where it is always 0, the networks wait for pixels."""


@dataclass(frozen=True)
class ArrayFiles:
    """What an attempt wrote below arrays/: its Zarr group, and each file's size and checksum."""

    path: str
    """The group, relative to the run directory; the `arrays` column of its objects."""
    bytes: dict[str, int]
    """Size of each file, by its path relative to the group."""
    sha256: dict[str, str]
    """The same files' checksums, hexadecimal."""

    @property
    def total_bytes(self) -> int:
        return sum(self.bytes.values())


@dataclass(frozen=True)
class FileEntry:
    """One file of a run directory, as a listing shows it."""

    path: str
    """Relative to the run directory."""
    bytes: int
    modified: datetime
    """UTC, by the store's clock."""


@dataclass(frozen=True)
class Heartbeat:
    """What a driver says of itself every 30 s, so that status needs the store alone."""

    driver_id: str
    started_at: str
    beat_at: str
    """UTC, ISO 8601; a beat much older than 30 s is a driver that ended or died."""
    total: int
    committed: int
    """Of `total`, those committed before this driver started included."""
    failed: int
    objects: int
    slides_per_hour: float
    workers: int
    in_flight: tuple[str, ...]
    """slide_ids that workers have in hand."""
    ended: bool = False
    """The driver's last beat: it finished, was stopped, or gave up."""
    gpu_hours: float = 0.0
    """GPUs times hours that its workers held, busy or idle; of a share of a GPU, that share."""
    core_hours: float = 0.0
    per_gpu_hour: float | None = None
    """Prices in force, from the driver's configuration."""
    per_core_hour: float | None = None
    currency: str = ""
    out: tuple[str, ...] = ()
    """A sentence for each folder or bucket of slides, and for the run directory, that the job waits for."""
    alike: str = ""
    """What many slides of this job fail by alike, as a sentence."""
    host: str = ""
    pid: int = 0
    stopping: bool = False
    """Asked to stop: slides in flight end, and no other is started."""
    boot: str = ""
    """Which start of which machine the driver runs on; empty in runs of earlier versions, and where the system does
    not tell, as the next two."""
    pid_namespace: str = ""
    """The space in which `pid` means something."""
    process_start: str = ""
    """When the process began, in the kernel's ticks: tells it from a later one with the same number."""


@dataclass(frozen=True)
class ResourceUsage:
    """What one attempt took of its worker, however it ended."""

    seconds: float
    networks_s: float
    """Of these, seconds in which a batch was at a network; in the others the GPU waited."""
    read_bytes: int
    """Read from files by the worker's process, 0 where the system does not tell."""
    fetched_bytes: int
    """Fetched from an object store, the next slide's share included."""


@dataclass(frozen=True)
class Outcome:
    """How one attempt ended; neither summary nor failure: another attempt had committed the slide."""

    slide_id: str
    summary: SlideSummary | None = None
    failure: Failure | None = None
    submitted: bool = False
    """The objects file waits below pending/ for the driver, who alone commits (`store.single_writer`)."""
    answered: int | None = None
    """Objects about which this attempt committed answers, where they are the work and not the slide itself."""
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


class Worker(Protocol):
    """Processes the items of a job, one instance per process; the scheduler calls it."""

    def prepare(self) -> str:
        """Load models; the name to show."""
        ...

    def process(self, item: WorkItem, upcoming: WorkItem | None = None) -> Outcome:
        """Process an item from start to commit; `upcoming` likely comes next and may be downloaded meanwhile."""
        ...

    def state(self) -> WorkerStatus | None:
        """What `process` is doing now; called from another thread."""
        ...

    def close(self) -> None:
        """Give back what it holds on the machine, such as staged slides; no slide will come any more."""
        ...


def utc_now() -> str:
    """The time in UTC, ISO 8601 with seconds, as all records state it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
