"""Dry run: every slide is opened and every tile planned; nothing is written.

Of a slide in an object store a few kB are read, and its tiles are planned roughly, over the area that its index lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.markup import escape

from fossilray.core.config import RunConfig
from fossilray.core.errors import RunNotFound
from fossilray.core.parallel import map_in_chunks
from fossilray.core.records import CatalogRow, RejectedFile
from fossilray.core.sample_terms import describe_sample
from fossilray.core.text import counted, strip_control_characters
from fossilray.core.text_table import TextColumn, TextTable
from fossilray.processing.detection.passes import LARGEST_WINDOW_PX
from fossilray.processing.planning.slide_plan import SlidePlan, SlidePlanner
from fossilray.slides.catalog import describe_missing_sites, find_slides
from fossilray.slides.catalog.find_remote import METADATA_THREADS
from fossilray.slides.catalog.sites import keep_frozen_sites
from fossilray.store import open_run
from fossilray.store.files.base import is_remote

OBJECTS_PER_MM2 = 46.0
"""Mean of the archive: 20,000 objects on a slide of 7 gigapixels at 0.25 um per pixel, which is 437 mm2."""
CROP_BYTES = 16_000
"""A 224 px crop as JPEG at quality 90, measured; scales with the crop's area."""
MODELS_BYTES = 900_000_000
"""Memory of a worker without a slide: interpreter, torch, both networks."""

_OPENING_THREADS = 4


@dataclass(frozen=True)
class RunPlan:
    """The plan of a run."""

    slides: tuple[SlidePlan, ...]
    refused: tuple[RejectedFile, ...]
    memory_per_worker: int
    """Estimated bytes."""
    crop_bytes: int
    scratch_gb: float = 0.0
    notes: tuple[str, ...] = ()
    """Sentences for the user: what was passed over, merged, read otherwise than it is written, or is there twice."""

    @property
    def objects(self) -> int:
        """Estimated from the area with foreground."""
        return round(sum(slide.covered_mm2 for slide in self.slides) * OBJECTS_PER_MM2)


def plan_run(target: str, run_url: str, config: RunConfig) -> RunPlan:
    """Plan every slide of `target`; slides that cannot be opened are in `refused`.

    Raises:
        UsageError: the target or the run directory cannot be used.
    """
    catalog = find_slides(
        target,
        access=config.slides.access or config.store,
        name_pattern=config.slides.name_pattern,
        unique_scans=config.slides.unique_scans,
    )
    store = open_run(run_url, config.store)
    try:
        store.read_run()
        committed = store.committed()
        frozen = store.readable_catalog() or []
    except RunNotFound:
        committed, frozen = set(), []
    rows = store.expect_catalog(keep_frozen_sites(catalog, frozen)) if frozen else catalog.rows
    refused = list(catalog.refused)
    plans: list[SlidePlan] = []
    has_remote = any(is_remote(row.path) for row in rows)
    planner = SlidePlanner(config, committed)
    for result in map_in_chunks(
        planner.plan, rows, threads=METADATA_THREADS if has_remote else _OPENING_THREADS
    ):
        if isinstance(result, RejectedFile):
            refused.append(result)
        else:
            plans.append(result)
    return RunPlan(
        tuple(plans),
        tuple(refused),
        _memory(config),
        crop_bytes(config),
        config.slides.scratch_gb,
        (*catalog.notes, *_plane_notes([plan.row for plan in plans], config)),
    )


def render_plan(plan: RunPlan) -> Group:
    """Render the plan for the terminal: a table of slides, then the sums."""
    numbers = (
        TextColumn(name, is_number=True) for name in ("size", "um/px", "tiles", "blank", "detector MP")
    )
    table = TextTable("slide", "sample", *numbers, "committed", title="dry run")
    for slide in plan.slides[:100]:
        row = slide.row
        table.add_row(
            row.slide_id,
            describe_sample(row.well, row.top_depth_m, row.base_depth_m, row.sample_type) or "?",
            f"{row.width or '?'} x {row.height or '?'}",
            _resolution(row),
            _count(slide.tiles),
            _share(slide.blank, slide.tiles),
            f"{slide.detection_megapixels:.0f}" if slide.tiles is not None else "?",
            "yes" if slide.committed else "",
        )
    known = [slide for slide in plan.slides if slide.tiles is not None]
    tiles = sum(slide.tiles or 0 for slide in known)
    blank = sum(slide.blank or 0 for slide in known)
    fetched = sum(slide.fetched_bytes for slide in plan.slides if not slide.committed)
    done = sum(slide.committed for slide in plan.slides)
    lines = [
        f"{len(plan.slides)} slides ({done} already committed), {len(plan.refused)} refused",
        f"{tiles:,} tiles, {blank / max(tiles, 1):.0%} blank",
        f"about {plan.objects:,} objects at the archive's {OBJECTS_PER_MM2:g} per mm2",
        f"about {plan.objects * plan.crop_bytes / 1e9:.2f} GB of crops in the run directory",
        f"about {plan.memory_per_worker / 1e9:.1f} GB of memory per worker",
    ]
    if fetched:
        lines.append(
            f"{fetched / 1e9:,.2f} GB to fetch from the object store, of which each worker keeps at most "
            f"{plan.scratch_gb:g} GB on its disk"
        )
        lines.append("of these slides only unscanned area counts as blank before they are read")
    if len(known) < len(plan.slides):
        lines.append(f"{len(plan.slides) - len(known)} slides have an unknown size before they are fetched")
    if len(plan.slides) > 100:
        lines.insert(0, f"the table shows the first 100 of {len(plan.slides)} slides")
    missing = describe_missing_sites([slide.row for slide in plan.slides])
    if missing is not None:
        lines.append(escape(missing))
    lines += [escape(strip_control_characters(note)) for note in plan.notes]
    doubts = [
        f"{slide.row.slide_id}: {doubt.code}: {doubt.sentence}"
        for slide in plan.slides
        for doubt in slide.row.doubts or ()
    ]
    if doubts:
        doubtful = sum(bool(slide.row.doubts) for slide in plan.slides)
        lines.append(
            f"doubts about {counted(doubtful, 'slide')}; --strict-doubts refuses slides by their codes"
        )
        lines += [escape(strip_control_characters(f"doubt {doubt}")) for doubt in doubts[:100]]
    if len(doubts) > 100:
        lines.append(f"… and {len(doubts) - 100:,} more doubts; the catalog lists them all")
    lines += [
        escape(strip_control_characters(f"refused {refused.path}: {refused.reason}"))
        for refused in plan.refused[:100]
    ]
    return Group(table, *lines)


def _plane_notes(rows: Sequence[CatalogRow], config: RunConfig) -> Iterator[str]:
    """Yield what `slides.planes` costs on slides with focus planes, if it reads them."""
    planes = [row.planes for row in rows if row.planes is not None and row.planes > 1]
    chosen = config.slides.planes
    if planes and chosen != "middle":
        slides = counted(len(planes), "slide")
        repeated = "read and detected" if chosen == "all" else "read"
        yield (
            f"slides.planes is {chosen}: {slides} with up to {max(planes):,} focus planes, of which every plane is "
            f"{repeated}; their time is estimated as that of one plane"
        )


def _resolution(row: CatalogRow) -> str:
    """The um per pixel, with its source where the slide does not state it."""
    if row.mpp is None:
        return "?"
    source = "" if row.mpp_from in (None, "slide") else f" ({row.mpp_from})"
    return f"{row.mpp:.4g}{source}"


def crop_bytes(config: RunConfig) -> int:
    """Estimated bytes of one stored crop, by its size and encoding."""
    share = (config.crops.size_px / 224) ** 2
    return round(CROP_BYTES * share * (1 if config.crops.encoding == "jpeg" else 8))


def _count(number: int | None) -> str:
    return "?" if number is None else str(number)


def _share(part: int | None, whole: int | None) -> str:
    return "?" if part is None or whole is None else f"{part / max(whole, 1):.0%}"


def _memory(config: RunConfig) -> int:
    """Bytes of models, tiles that wait for the detector, activations of one tile, and crops to embed."""
    detection_pass = config.detector.passes[0]
    tile_px = config.tiling.tile_px
    window_px = (
        LARGEST_WINDOW_PX
        if tile_px is None
        else tile_px * 0.25 / detection_pass.um_per_px + detection_pass.largest_um / detection_pass.um_per_px
    )
    batch_bytes = config.detector.batch * window_px**2 * 3
    crops_bytes = 4 * config.embedder.batch * config.crops.size_px**2 * 3
    # A nano network keeps some 60 floats of activation per input pixel alive at its widest point.
    return round(MODELS_BYTES + 3 * batch_bytes + window_px**2 * 60 * 4 + crops_bytes)
