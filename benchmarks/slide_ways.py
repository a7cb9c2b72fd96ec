"""What `slide.py` times, each in a process of its own: the paper's procedure, a worker of ours, bare libjpeg.

Every function here opens the slide again; models are loaded once a process, by `warm_up`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from paper_procedure import Stopwatch, load_network, run_paper_procedure
from stored_tiles import StoredTile, decode_bare, recorded_tiles

from fossilray.core.config import RunConfig
from fossilray.core.records import ArrayFiles, CatalogRow, WorkItem
from fossilray.core.types import Boxes, Detector
from fossilray.processing.crops.extract import extract_crops
from fossilray.processing.crops.measures import measure_crops
from fossilray.processing.detection.detect import NetworkThreads, detect_objects
from fossilray.processing.detection.merge import merge_tiles
from fossilray.processing.worker import SlideWorker
from fossilray.render.slide_overview import LONGEST_SIDE_PX, draw_boxes
from fossilray.slides.clear_field import estimate_background
from fossilray.slides.slide import Slide, open_slide
from fossilray.store import RunStore
from fossilray.store.arrays.group import ArrayWriter
from fossilray.store.run.run_record import describe_run

if TYPE_CHECKING:
    import torch

CORNERS = ("x_min", "y_min", "x_max", "y_max")
_WINDOW_PX = 2048
_PROBES = 15


@dataclass(frozen=True)
class Taken:
    """What one way took for one slide, in seconds; cpu_s of the whole process. xyxy: what it found, level-0 px."""

    cpu_s: float
    wall_s: float
    stages_cpu_s: dict[str, float] = field(default_factory=dict)
    stages_wall_s: dict[str, float] = field(default_factory=dict)
    xyxy: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))


@dataclass(frozen=True)
class Touched:
    """The stored tiles that a worker reads for a slide, and all of its level 0; each tile once.

    decodes: how often one was decoded, repeats included. direct: share of regions read without OpenSlide, which
    alone can be followed.
    """

    detect: list[StoredTile]
    crops: list[StoredTile]
    decodes_detect: int
    decodes_crops: int
    full: list[StoredTile]
    direct: bool

    @property
    def both(self) -> list[StoredTile]:
        """For detection and crops together, each once."""
        return sorted({*self.detect, *self.crops})


# The models of this process.
_networks: dict[str, torch.nn.Module] = {}
_workers: dict[str, SlideWorker] = {}
_detectors: dict[str, Detector] = {}
_lane = ThreadPoolExecutor(1, thread_name_prefix="detect")


def warm_up_paper(path: Path) -> int:
    """Run the paper's procedure once; the number of threads that PyTorch is given.

    All cores by default; one, where that is quicker for so small a network, as a careful user would find out.
    """
    import torch

    network = _networks["paper"] = load_network()
    image = torch.rand(1, 3, 128, 128)
    took: dict[int, float] = {}
    for threads in sorted({torch.get_num_threads(), 1}):
        torch.set_num_threads(threads)
        probes = []
        with torch.inference_mode():
            for _ in range(_PROBES):
                began_s = time.perf_counter()
                network(image)
                probes.append(time.perf_counter() - began_s)
        took[threads] = float(np.median(probes))
    best = min(took, key=took.__getitem__)
    torch.set_num_threads(best)
    run_paper(path)
    return best


def run_paper(path: Path) -> Taken:
    """The paper's procedure, whole; stages as it names them."""
    watch = Stopwatch()
    with _timed() as taken:
        detected = run_paper_procedure(path, _networks["paper"], watch)
    return Taken(*taken, watch.cpu_s, watch.wall_s, detected.xyxy)


def warm_up_ours(path: Path, config: RunConfig, run: Path) -> None:
    """Load the models of a configuration and process a slide into a run of its own."""
    RunStore.open(str(run)).create_or_check(describe_run(config, {}))
    worker = _workers[str(run)] = SlideWorker(str(run), config)
    worker.prepare()
    run_ours(path, "warm-up", run)


def run_ours(path: Path, slide_id: str, run: Path) -> Taken:
    """A worker's whole work on a slide, commit included; `slide_id` must be new to the run."""
    with _timed() as taken:
        outcome = _workers[str(run)].process(WorkItem.of_slide(CatalogRow(slide_id, str(path))))
    summary = outcome.summary
    assert summary is not None, outcome.failure
    wall_s = {
        "open": summary.seconds_open,
        "detect": summary.seconds_detect,
        "merge": summary.seconds_merge,
        "crops": summary.seconds_crops,
        "write": summary.seconds_write,
    }
    (rows,) = run.glob(f"objects/*/{slide_id}.parquet")
    table = pq.ParquetFile(rows).read(columns=list(CORNERS))
    xyxy = np.stack([table.column(name).to_numpy() for name in CORNERS], axis=1).astype(np.float64)
    return Taken(*taken, stages_wall_s=wall_s, xyxy=xyxy)


def run_ours_apart(path: Path, config: RunConfig, run: Path) -> Taken:
    """A worker's stages one after the other, each by the function that the worker calls.

    read: the overview and every tile for a detector that sees nothing. detect: the same with the real one, less
    what reading took (on the clock: not less). cut: crops for a writer that drops them, less measuring them;
    memory for all of a slide's would cost half as much again. measure, encode: of crops cut once more, the latter
    into Zarr. Only the whole work has the table and the commit.
    """
    detector = _detector(config)
    watch = Stopwatch()
    with _timed() as taken, ThreadPoolExecutor(config.slides.read_threads) as readers:
        with watch.stage("open"):
            slide = open_slide(path, reader=config.slides.reader)
        with slide:
            with watch.stage("read"):
                detect_objects(slide, readers, detector=_Blind(detector), **_as_worker(config))
            with watch.stage("detect"):
                seen = detect_objects(slide, readers, detector=detector, **_as_worker(config))
            with watch.stage("merge"):
                boxes = merge_tiles(seen.tiles, info=slide.info, merge=config.merge)
            with watch.stage("cut"):
                _cut(slide, readers, boxes, _Kept(keeps=False), config, seen.coarsest_level)
            kept = _Kept()
            _cut(slide, readers, boxes, kept, config, seen.coarsest_level)
            background = estimate_background(slide)
            with watch.stage("picture"):
                picture, shown = slide.thumbnail(LONGEST_SIDE_PX)
                draw_boxes(picture, rect=shown, boxes=boxes, mpp=slide.info.mpp)
        with watch.stage("measure"):
            for crops in kept.parts:
                measure_crops(crops, background, np.zeros(len(crops), np.bool_))
        with watch.stage("encode"):
            _encode(kept, config, run)
    watch.cpu_s["detect"] -= watch.cpu_s["read"]
    watch.cpu_s["cut"] -= watch.cpu_s["measure"]
    return Taken(*taken, watch.cpu_s, watch.wall_s, boxes.xyxy)


def list_touched(path: Path, config: RunConfig) -> Touched:
    """Which stored tiles the worker's functions read for this slide, seen at the system's reading call."""
    detector = _detector(config)
    with (
        ThreadPoolExecutor(config.slides.read_threads) as readers,
        open_slide(path, reader=config.slides.reader) as slide,
    ):
        with recorded_tiles() as for_detection:
            seen = detect_objects(slide, readers, detector=detector, **_as_worker(config))
        boxes = merge_tiles(seen.tiles, info=slide.info, merge=config.merge)
        with recorded_tiles() as for_crops:
            _cut(slide, readers, boxes, _Kept(keeps=False), config, seen.coarsest_level)
        direct = slide.regions_read_directly > 0
    # A slide of its own, for what is kept decoded would not be read again.
    with open_slide(path, reader=config.slides.reader) as slide, recorded_tiles() as for_all:
        bounds = slide.info.bounds
        for y in range(bounds.y_min, bounds.y_max, _WINDOW_PX):
            for x in range(bounds.x_min, bounds.x_max, _WINDOW_PX):
                slide.read(0, x, y, min(_WINDOW_PX, bounds.x_max - x), min(_WINDOW_PX, bounds.y_max - y))
    return Touched(
        detect=sorted(set(for_detection)),
        crops=sorted(set(for_crops)),
        decodes_detect=len(for_detection),
        decodes_crops=len(for_crops),
        full=sorted(set(for_all)),
        direct=direct and bool(for_all),
    )


def run_libjpeg(tiles: Sequence[StoredTile]) -> Taken:
    """Bare libjpeg-turbo over stored tiles."""
    with _timed() as taken:
        decode_bare(tiles)
    return Taken(*taken)


class _Blind:
    """A detector that finds nothing at no cost; in all else the one given."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def __getattr__(self, name: str) -> Any:
        return getattr(self._detector, name)

    @property
    def stride_px(self) -> int:
        return self._detector.stride_px

    def detect(self, tiles: NDArray[np.uint8], *, um_per_px: float) -> list[Boxes]:
        return [Boxes.empty() for _ in tiles]


class _Kept:
    """Takes crops as the writer of arrays does and stores nothing; parts stand in the order of arrival."""

    def __init__(self, *, keeps: bool = True) -> None:
        self._keeps = keeps
        self.parts: list[NDArray[np.uint8]] = []

    def encode(self, crops: NDArray[np.uint8]) -> list[bytes]:
        if self._keeps:
            self.parts.append(crops)
        return [b""] * len(crops)

    def write_encoded(self, first_row: int, crops: list[bytes], embeddings: object) -> None:
        """Nothing."""

    def finish(self) -> ArrayFiles:
        return ArrayFiles("", {}, {})


def _detector(config: RunConfig) -> Detector:
    key = config.model_dump_json()
    if key not in _detectors:
        import torch

        from fossilray.models.detectors.load import load_detector

        torch.set_num_threads(config.workers.torch_threads)
        _detectors[key] = load_detector(config.detector, device="cpu", precision=config.workers.precision)
    return _detectors[key]


def _as_worker(config: RunConfig) -> dict[str, Any]:
    threads = NetworkThreads(_lane, 1)
    return {"config": config, "network_threads": threads, "name": "benchmark", "progress": lambda _: None}


def _cut(
    slide: Slide,
    readers: ThreadPoolExecutor,
    boxes: Boxes,
    writer: Any,
    config: RunConfig,
    coarsest_level: int,
) -> None:
    with ThreadPoolExecutor(1) as writers:
        extract_crops(
            slide,
            readers,
            boxes,
            writer=writer,
            writers=writers,
            embedder=None,
            network_threads=NetworkThreads(_lane, 1),
            config=config,
            coarsest_level=coarsest_level,
            progress=lambda _: None,
        )


def _encode(kept: _Kept, config: RunConfig, run: Path) -> None:
    """Writes an attempt that is deleted again; nothing is committed."""
    store = RunStore.open(str(run))
    attempt = store.attempts.start("apart", deadline_s=3600)
    count = sum(len(crops) for crops in kept.parts)
    writer = ArrayWriter(store, "apart", attempt.attempt, count=count, crops=config.crops, dimension=None)
    first = 0
    for crops in kept.parts:
        writer.write(first, crops, None)
        first += len(crops)
    writer.finish()
    store.delete_attempt("apart", attempt.attempt)


@contextmanager
def _timed() -> Iterator[list[float]]:
    """A list that holds, once the body has ended, the seconds of CPU and on the clock that it took."""
    taken: list[float] = []
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    yield taken
    taken += [time.process_time() - cpu_s, time.perf_counter() - wall_s]
