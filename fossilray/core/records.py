"""Types and table schemas that travel between files; every column name is spelled here and only here.

Frames: slide coordinates are level-0 pixels of OpenSlide's frame, x before y, origin top left.
Images are H x W x 3 uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

SCHEMA_VERSION = 5
"""2: seconds_fetch. 5: losses per pass and boxes_outside in `slides`."""

READABLE_VERSIONS = (4, 5)
"""Versions of runs and datasets that are read and resumed; columns that they lack are null."""

Image = NDArray[np.uint8]
"""H x W x 3 uint8 RGB."""

UNASSIGNED_WELL = "unassigned"


@dataclass(frozen=True)
class Rect:
    """A half-open rectangle in level-0 pixels."""

    x_min: int
    y_min: int
    x_max: int
    y_max: int

    @property
    def width(self) -> int:
        return self.x_max - self.x_min

    @property
    def height(self) -> int:
        return self.y_max - self.y_min


@dataclass(frozen=True)
class Level:
    """One level of a slide's pyramid; `downsample` is level-0 pixels per pixel of this level."""

    width: int
    height: int
    downsample: float


@dataclass(frozen=True)
class SlideInfo:
    """What a slide says of itself."""

    path: str
    vendor: str
    width: int
    height: int
    mpp: float
    levels: tuple[Level, ...]
    bounds: Rect
    """The scanned area; the whole canvas where the format states none."""
    background_rgb: tuple[int, int, int]
    """Colour that transparent pixels are composited on."""


@dataclass(frozen=True)
class CatalogRow:
    """One slide of the catalog; None where nobody knows."""

    slide_id: str
    path: str
    vendor: str | None = None
    width: int | None = None
    height: int | None = None
    mpp: float | None = None
    levels: int | None = None
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
class Boxes:
    """Bounding boxes with scores; the frame is said by whoever hands them over.

    xyxy: (n, 4) float64, x_min y_min x_max y_max. score: (n,) float32 in 0..1.
    """

    xyxy: NDArray[np.float64]
    score: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.score)

    @staticmethod
    def empty() -> Boxes:
        return Boxes(np.zeros((0, 4)), np.zeros(0, np.float32))

    def take(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Boxes:
        """The boxes that a mask or an index array names."""
        return Boxes(self.xyxy[which], self.score[which])


class Detector(Protocol):
    """Finds objects in tiles."""

    @property
    def stride_px(self) -> int:
        """Tile origins and sides are multiples of this, in pixels of the detection scale."""
        ...

    def detect(self, tiles: NDArray[np.uint8], *, um_per_px: float) -> list[Boxes]:
        """One Boxes per tile, in tile pixels, for a batch (b, H, W, 3) uint8 RGB seen at `um_per_px`."""
        ...


class Embedder(Protocol):
    """Describes crops by vectors."""

    @property
    def name(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float16]:
        """(n, dimension) float16 for n crops (n, H, W, 3) uint8 RGB."""
        ...


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
    tiles_planned: int
    tiles_blank: int
    tiles_read: int
    tiles_failed: int
    content_mm2: float
    """Scanned area in the finest pass's tiles that are not blank, their halos left out: never above scanned_mm2."""
    detector_megapixels: float
    """What the detector was shown in all passes, halos included, in 1e6 px of its scales."""
    device: str
    """What the networks ran on, and in which numbers: `cpu/bfloat16`."""
    objects: int
    crops_coarser: int
    """Crops cut from a coarser level because the right one was unreadable."""
    crops_failed: int
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
    boxes_outside: int | None = None
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


def _schema(*fields: tuple[str, pa.DataType, bool]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=nullable) for name, kind, nullable in fields])


OBJECTS_SCHEMA = _schema(
    ("slide_id", pa.string(), False),
    ("arrays", pa.string(), False),
    ("measured_depth_m", pa.float64(), True),
    ("object_id", pa.int32(), False),
    ("x_min", pa.int32(), False),
    ("y_min", pa.int32(), False),
    ("x_max", pa.int32(), False),
    ("y_max", pa.int32(), False),
    ("width_um", pa.float32(), False),
    ("height_um", pa.float32(), False),
    ("area_um2", pa.float32(), False),
    ("score", pa.float32(), False),
    ("overlap", pa.float32(), False),
    ("isolated", pa.bool_(), False),
    ("touches_edge", pa.bool_(), False),
    ("opacity", pa.float32(), True),
    ("sharpness", pa.float32(), True),
    ("mean_r", pa.uint8(), True),
    ("mean_g", pa.uint8(), True),
    ("mean_b", pa.uint8(), True),
)
"""Columns inside an objects file; `well` is the Hive partition and lives in the path."""

SLIDES_SCHEMA = _schema(
    ("slide_id", pa.string(), False),
    ("path", pa.string(), False),
    ("well", pa.string(), False),
    ("measured_depth_m", pa.float64(), True),
    ("vendor", pa.string(), False),
    ("width", pa.int64(), False),
    ("height", pa.int64(), False),
    ("mpp", pa.float64(), False),
    ("bounds_x", pa.int64(), False),
    ("bounds_y", pa.int64(), False),
    ("bounds_width", pa.int64(), False),
    ("bounds_height", pa.int64(), False),
    ("scanned_mm2", pa.float64(), False),
    ("tiles_planned", pa.int32(), False),
    ("tiles_blank", pa.int32(), False),
    ("tiles_read", pa.int32(), False),
    ("tiles_failed", pa.int32(), False),
    ("content_mm2", pa.float64(), False),
    ("detector_megapixels", pa.float64(), False),
    ("device", pa.string(), False),
    ("objects", pa.int32(), False),
    ("crops_coarser", pa.int32(), False),
    ("crops_failed", pa.int32(), False),
    ("array_bytes", pa.int64(), False),
    ("seconds_fetch", pa.float64(), False),
    ("seconds_open", pa.float64(), False),
    ("seconds_detect", pa.float64(), False),
    ("seconds_merge", pa.float64(), False),
    ("seconds_crops", pa.float64(), False),
    ("seconds_embed", pa.float64(), False),
    ("seconds_write", pa.float64(), False),
    ("seconds_total", pa.float64(), False),
    ("attempt", pa.string(), False),
    ("host", pa.string(), False),
    ("finished_at", pa.string(), False),
    ("boxes_outside", pa.int32(), True),
    ("lost_share", pa.float64(), True),
    ("pass_um_per_px", pa.list_(pa.float64()), True),
    ("pass_foreground_mm2", pa.list_(pa.float64()), True),
    ("pass_lost_mm2", pa.list_(pa.float64()), True),
)

CATALOG_SCHEMA = _schema(
    ("slide_id", pa.string(), False),
    ("path", pa.string(), False),
    ("vendor", pa.string(), True),
    ("width", pa.int64(), True),
    ("height", pa.int64(), True),
    ("mpp", pa.float64(), True),
    ("levels", pa.int32(), True),
    ("bounds_x", pa.int64(), True),
    ("bounds_y", pa.int64(), True),
    ("bounds_width", pa.int64(), True),
    ("bounds_height", pa.int64(), True),
    ("well", pa.string(), True),
    ("measured_depth_m", pa.float64(), True),
)

FAILURES_SCHEMA = _schema(
    ("slide_id", pa.string(), False),
    ("attempt", pa.string(), False),
    ("stage", pa.string(), False),
    ("error", pa.string(), False),
    ("message", pa.string(), False),
    ("transient", pa.bool_(), False),
    ("quarantined", pa.bool_(), False),
    ("host", pa.string(), False),
    ("failed_at", pa.string(), False),
    ("place", pa.string(), True),
    ("traceback", pa.string(), True),
    ("root", pa.string(), True),
)


CURATION_SCHEMA = _schema(
    ("slide_id", pa.string(), False),
    ("object_id", pa.int32(), False),
    ("cluster", pa.int32(), False),
    ("family", pa.int32(), False),
    ("keep", pa.bool_(), False),
    ("weight", pa.float32(), False),
    ("reason", pa.string(), True),
)
"""Columns of a curation, in the order of a table of crops; cluster and family are -1 of what has no vector."""


def embeddings_schema(dimension: int) -> pa.Schema:
    """Columns of embeddings, a dataset's or those of a later job; `well` is the Hive partition, as of objects."""
    return _schema(
        ("slide_id", pa.string(), False),
        ("object_id", pa.int32(), False),
        ("embedding", pa.list_(pa.field("element", pa.float16(), nullable=False), dimension), False),
    )


PREDICTIONS_SCHEMA = _schema(
    ("slide_id", pa.string(), False),
    ("object_id", pa.int32(), False),
    ("genus", pa.string(), True),
    ("score", pa.float32(), True),
    ("entropy", pa.float32(), True),
    ("genus_2", pa.string(), True),
    ("score_2", pa.float32(), True),
    ("genus_3", pa.string(), True),
    ("score_3", pa.float32(), True),
)
"""What a head says of objects: the three likeliest classes, and the entropy of all of them in nats.

Null where the pixels could not be read, and for the third of two classes.
"""

CALIBRATED_PREDICTIONS_SCHEMA = pa.schema(
    [
        *PREDICTIONS_SCHEMA,
        pa.field("genera", pa.list_(pa.string())),
        pa.field("wrong_p", pa.float32()),
        pa.field("novelty", pa.float32()),
        pa.field("novelty_p", pa.float32()),
    ]
)
"""What a head says that knows how sure it may be.

`genera`: those that cannot be excluded at the coverage asked for, the likeliest first. `wrong_p`: conformal p-value of
"the call is wrong". `novelty`: distance from all labels, and `novelty_p`: p-value of "it is of a known genus".
"""

TRUTH_SCHEMA = _schema(
    ("slide_id", pa.string(), False),
    ("well", pa.string(), False),
    ("measured_depth_m", pa.float64(), True),
    ("object_id", pa.int32(), False),
    ("x_min", pa.int32(), False),
    ("y_min", pa.int32(), False),
    ("x_max", pa.int32(), False),
    ("y_max", pa.int32(), False),
    ("kind", pa.string(), False),
    ("is_fossil", pa.bool_(), False),
)
"""Boxes that the synthetic archive really painted, level-0 pixels of OpenSlide's frame."""


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
    """Of an exception that no rule expects, where in the program it was raised: `fossilray/processing/detection/merge.py:120`."""
    traceback: str | None = None
    """The end of its traceback, and that of a lack of memory."""
    root: str | None = None
    """The folder or the bucket that was out; the slide is not to blame."""
    given_up: bool | None = None
    """Whether the job gave the slide up, so that only a later start tries it again; None: not recorded."""

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


class Worker(Protocol):
    """What the scheduler drives, one instance per process."""

    def prepare(self) -> str:
        """Load models; the name to show."""
        ...

    def process(self, row: CatalogRow, upcoming: CatalogRow | None = None) -> Outcome:
        """Do the slide, whole; `upcoming` is likely to come next and may be fetched meanwhile."""
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
