"""Workload of an archive: estimated from a catalog, or summed from a dry run."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fossilray.core.config import RunConfig
from fossilray.core.errors import CatalogError
from fossilray.core.records import CatalogRow
from fossilray.core.types import Level, Rect, SlideInfo
from fossilray.processing.detection.foreground import foreground_units
from fossilray.processing.detection.passes import plan_passes
from fossilray.processing.detection.windows import plan_windows
from fossilray.processing.planning.dry_run import OBJECTS_PER_MM2, RunPlan
from fossilray.processing.planning.model import Quantity, Source, Workload
from fossilray.processing.planning.slide_plan import STRIDE_PX

ARCHIVE_PX = 7e9
"""Level-0 pixels scanned on the archive's mean slide."""
ASSUMED_MPP = 0.25
ARCHIVE_BYTES_PER_PX = 1.9e9 / ARCHIVE_PX
"""1.9 GB for those pixels, as JPEG of the scanner."""
PARQUET_BYTES_PER_OBJECT = 64
"""Measured on the run of `fossilray demo`."""
EMBEDDING_BYTES = 1024
"""512 halves, the bundled vector; shorter ones take less."""


@dataclass(frozen=True)
class ObjectStatistics:
    """Statistics of slides that a catalog does not contain."""

    objects_per_mm2: Quantity
    bytes_per_object: Quantity
    blank_share: Quantity
    """Share of the scanned area in background tiles, which the detector is not shown."""


def assumed_statistics(crop_bytes: int) -> ObjectStatistics:
    """Statistics of the archive that fossilray was made for. crop_bytes: size of one stored crop."""
    return ObjectStatistics(
        objects_per_mm2=Quantity(OBJECTS_PER_MM2, "objects/mm2", "assumed", "20,000 on a slide of 437 mm2"),
        bytes_per_object=Quantity(
            crop_bytes + EMBEDDING_BYTES + PARQUET_BYTES_PER_OBJECT,
            "B/object",
            "assumed",
            f"crop {crop_bytes:,}, vector {EMBEDDING_BYTES}, row {PARQUET_BYTES_PER_OBJECT}",
        ),
        blank_share=Quantity(0.0, "of the scanned area", "assumed", "no tile is background"),
    )


def workload_of_rows(
    rows: Sequence[CatalogRow], config: RunConfig, statistics: ObjectStatistics, *, slides: int | None = None
) -> Workload:
    """Estimate the workload of these slides, or of another number of similar slides; no slide is opened.

    Raises:
        CatalogError: the catalog is empty.
    """
    if not rows:
        raise CatalogError("there is no slide to estimate; name a folder or a catalog that has some")
    factor = (slides or len(rows)) / len(rows)
    canvases = [_canvas(row, config) for row in rows]
    shown = 1 - statistics.blank_share.value
    area_px = sum(canvas.width * canvas.height for canvas in canvases)
    mm2 = sum(canvas.width * canvas.height * (canvas.mpp / 1000) ** 2 for canvas in canvases)
    megapixels = sum(_megapixels(canvases, config)) * shown
    source, how = _area_source(canvases)
    number = (
        Quantity(slides, "slides", "stated", f"like the {len(rows):,} of the catalog")
        if slides
        else Quantity(len(rows), "slides", "from the catalog")
    )
    return Workload(
        slides=number,
        gigapixels=Quantity(area_px * factor / 1e9, "GP", source, how),
        scanned_mm2=Quantity(mm2 * factor, "mm2", source, how),
        detector_megapixels=Quantity(
            megapixels * factor,
            "MP",
            "computed",
            f"tiles with halos of {len(config.detector.passes)} passes, {statistics.blank_share.value:.0%} background "
            f"({statistics.blank_share.source})",
        ),
        objects=_objects(mm2 * factor, statistics),
        bytes_read=_scanner_bytes(area_px * factor),
        bytes_per_object=statistics.bytes_per_object,
    )


def workload_of_plan(plan: RunPlan, statistics: ObjectStatistics) -> Workload | None:
    """Sum the workload of the slides of a dry run that are not committed; None without such slides.

    Slides whose size is unknown before their download count as the mean of the others.
    """
    waiting = [slide for slide in plan.slides if not slide.committed]
    known = [slide for slide in waiting if slide.tiles]
    if not known:
        return None
    factor = len(waiting) / len(known)
    unknown = f"{len(waiting) - len(known)} of unknown size counted as the mean" if factor > 1 else ""
    areas = [_scanned_px(slide.row) for slide in known]
    area_px = sum(areas) * factor
    mpps = [slide.row.mpp or ASSUMED_MPP for slide in known]
    mm2 = sum(px * (mpp / 1000) ** 2 for px, mpp in zip(areas, mpps, strict=True)) * factor
    fetched = sum(slide.fetched_bytes for slide in waiting)
    return Workload(
        slides=Quantity(len(waiting), "slides", "from the catalog", "not committed yet"),
        gigapixels=Quantity(area_px / 1e9, "GP", "from the catalog", unknown),
        scanned_mm2=Quantity(mm2, "mm2", "from the catalog", unknown),
        detector_megapixels=Quantity(
            sum(slide.detection_megapixels for slide in known) * factor, "MP", "computed", "tiles as planned"
        ),
        objects=_objects(
            sum(slide.covered_mm2 for slide in known) * factor,
            replace(statistics, blank_share=replace(statistics.blank_share, value=0.0)),
        ),
        bytes_read=Quantity(fetched, "B", "computed", "listed in the object store")
        if fetched
        else _scanner_bytes(area_px),
        bytes_per_object=statistics.bytes_per_object,
    )


def detector_megapixels(info: SlideInfo, config: RunConfig) -> float:
    """Megapixels at detection scale of all tiles of a slide, halos included."""
    passes = plan_passes(info, config.tiling, config.detector, STRIDE_PX)
    return sum(
        plan_windows(detection_pass, foreground_units(detection_pass, None)).megapixels
        for detection_pass in passes
    )


def scanned_info(width: int, height: int, *, mpp: float, levels: int | None = None) -> SlideInfo:
    """Return a slide of this scanned area (level-0 px) whose levels halve, for planning only."""
    halves = [
        Level(max(1, width >> level), max(1, height >> level), float(1 << level))
        for level in range(levels or _LEVELS)
    ]
    return SlideInfo(
        path="",
        vendor="unknown",
        width=width,
        height=height,
        mpp=mpp,
        levels=tuple(halves),
        bounds=Rect(0, 0, width, height),
        background_rgb=(255, 255, 255),
    )


_LEVELS = 10
"""Number of levels of a MIRAX slide; the catalog's number of levels takes precedence."""


_PLANNED_EACH = 100
"""Up to this number slides are planned one by one, some ms each; of more, one per size."""


@dataclass(frozen=True)
class _Canvas:
    width: int
    height: int
    mpp: float
    levels: int | None
    assumed: tuple[str, ...]

    def info(self) -> SlideInfo:
        return scanned_info(self.width, self.height, mpp=self.mpp, levels=self.levels)


def _canvas(row: CatalogRow, config: RunConfig) -> _Canvas:
    assumed: list[str] = []
    mpp = config.slides.mpp_override or row.mpp or config.slides.mpp
    if mpp is None:
        mpp = ASSUMED_MPP
        assumed.append(f"{ASSUMED_MPP:g} um per px")
    if row.bounds_width is not None and row.bounds_height is not None:
        width, height = row.bounds_width, row.bounds_height
    elif row.width is not None and row.height is not None:
        width, height = row.width, row.height
        assumed.append("the whole canvas scanned")
    else:
        width = height = round(math.sqrt(ARCHIVE_PX))
        assumed.append(f"{ARCHIVE_PX / 1e9:g} GP")
    return _Canvas(max(1, width), max(1, height), mpp, row.levels, tuple(assumed))


def _megapixels(canvases: Sequence[_Canvas], config: RunConfig) -> list[float]:
    """Megapixels that the detector is shown of each slide; of many, by area from one within 3 % of width and height."""
    if len(canvases) <= _PLANNED_EACH:
        return [detector_megapixels(canvas.info(), config) for canvas in canvases]

    @functools.cache
    def share(width: int, height: int, mpp: float, levels: int | None) -> float:
        """Detector megapixels per level-0 pixel of such a slide."""
        return detector_megapixels(scanned_info(width, height, mpp=mpp, levels=levels), config) / (
            width * height
        )

    return [
        share(_near(canvas.width), _near(canvas.height), canvas.mpp, canvas.levels)
        * (canvas.width * canvas.height)
        for canvas in canvases
    ]


def _near(side_px: int) -> int:
    """The nearest of 16 sizes per octave."""
    return max(1, round(2 ** (round(16 * math.log2(side_px)) / 16)))


def _area_source(canvases: Sequence[_Canvas]) -> tuple[Source, str]:
    """Source of the areas: the catalog, unless every slide needed an assumption."""
    counts: dict[str, int] = {}
    for canvas in canvases:
        for assumption in canvas.assumed:
            counts[assumption] = counts.get(assumption, 0) + 1
    how = "; ".join(
        f"{assumption} assumed for {count:,} of {len(canvases):,}" for assumption, count in counts.items()
    )
    return ("assumed" if all(canvas.assumed for canvas in canvases) else "from the catalog"), how


def _objects(mm2: float, statistics: ObjectStatistics) -> Quantity:
    density, blank = statistics.objects_per_mm2, statistics.blank_share.value
    how = f"{density.value:.3g} per mm2 ({density.source}: {density.how})"
    return Quantity(mm2 * (1 - blank) * density.value, "objects", "computed", how)


def _scanner_bytes(area_px: float) -> Quantity:
    return Quantity(area_px * ARCHIVE_BYTES_PER_PX, "B", "assumed", "1.9 GB for 7 GP, read whole")


def _scanned_px(row: CatalogRow) -> float:
    if row.bounds_width is not None and row.bounds_height is not None:
        return float(row.bounds_width * row.bounds_height)
    return float((row.width or 0) * (row.height or 0)) or ARCHIVE_PX
