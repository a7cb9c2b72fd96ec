"""What a run would do: every slide opened, every tile planned, nothing written."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from fossilray.catalog import find_slides
from fossilray.config import RunConfig
from fossilray.errors import RunNotFound, SlideError
from fossilray.records import CatalogRow, RefusedFile
from fossilray.slide import open_slide
from fossilray.store import RunStore
from fossilray.tables import printable
from fossilray.tiling import find_blank, plan_sweeps

OBJECTS_PER_MM2 = 46.0
"""The archive's mean: 20,000 objects on a slide of 7 gigapixels at 0.25 um per pixel, which is 437 mm2."""
CROP_BYTES = 16_000
"""A 224 px crop as JPEG at quality 90, measured; scales with the crop's area."""
MODELS_BYTES = 900_000_000
"""A worker before it has a slide: interpreter, torch, both networks."""
STRIDE_PX = 32


@dataclass(frozen=True)
class SlidePlan:
    """What one slide would cost."""

    row: CatalogRow
    committed: bool
    tiles: int
    blank: int
    detection_megapixels: float
    """Pixels at detection scale that the detector would see, blank tiles left out."""
    covered_mm2: float
    """Area of the finest sweep's tiles that are not blank."""


@dataclass(frozen=True)
class RunPlan:
    """A whole run, planned."""

    slides: tuple[SlidePlan, ...]
    refused: tuple[RefusedFile, ...]
    memory_per_worker: int
    """Bytes; an estimate."""
    crop_bytes: int

    @property
    def objects(self) -> int:
        """Projected from the area that is not blank."""
        return round(sum(slide.covered_mm2 for slide in self.slides) * OBJECTS_PER_MM2)


def plan_run(target: str, run_url: str, config: RunConfig) -> RunPlan:
    """The plan for every slide of `target`; slides that cannot be opened are among the refused.

    Raises:
        UsageError: the target or the run directory cannot be used.
    """
    catalog = find_slides(target)
    store = RunStore.open(run_url, config.store)
    try:
        store.read_run()
        committed = store.committed()
    except RunNotFound:
        committed = set()
    refused = list(catalog.refused)
    plans: list[SlidePlan] = []
    with ThreadPoolExecutor(4) as pool:
        for answer in pool.map(lambda row: _plan_slide(row, config, row.slide_id in committed), catalog.rows):
            if isinstance(answer, RefusedFile):
                refused.append(answer)
            else:
                plans.append(answer)
    return RunPlan(tuple(plans), tuple(refused), _memory(config), _crop_bytes(config))


def render_plan(plan: RunPlan) -> Group:
    """The plan for the terminal: a table of slides, then the sums."""
    table = Table(title="dry run", title_justify="left")
    for name in ("slide", "size", "um/px", "tiles", "blank", "detector MP", "committed"):
        table.add_column(name, justify="left" if name == "slide" else "right")
    for slide in plan.slides[:100]:
        row = slide.row
        table.add_row(
            escape(printable(row.slide_id)),
            f"{row.width} x {row.height}",
            "?" if row.mpp is None else f"{row.mpp:.4g}",
            str(slide.tiles),
            f"{slide.blank / max(slide.tiles, 1):.0%}",
            f"{slide.detection_megapixels:.0f}",
            "yes" if slide.committed else "",
        )
    tiles = sum(slide.tiles for slide in plan.slides)
    blank = sum(slide.blank for slide in plan.slides)
    done = sum(slide.committed for slide in plan.slides)
    lines = [
        f"{len(plan.slides)} slides ({done} already committed), {len(plan.refused)} refused",
        f"{tiles:,} tiles, {blank / max(tiles, 1):.0%} blank",
        f"about {plan.objects:,} objects at the archive's {OBJECTS_PER_MM2:g} per mm2",
        f"about {plan.objects * plan.crop_bytes / 1e9:.2f} GB of crops in the run directory",
        f"about {plan.memory_per_worker / 1e9:.1f} GB of memory per worker",
    ]
    if len(plan.slides) > 100:
        lines.insert(0, f"the table shows the first 100 of {len(plan.slides)} slides")
    lines += [
        escape(printable(f"refused {refused.path}: {refused.reason}")) for refused in plan.refused[:100]
    ]
    return Group(table, *lines)


def _plan_slide(row: CatalogRow, config: RunConfig, committed: bool) -> SlidePlan | RefusedFile:
    slides = config.slides
    try:
        with open_slide(Path(row.path), mpp=row.mpp or slides.mpp, mpp_override=slides.mpp_override) as slide:
            sweeps = plan_sweeps(slide.info, config.tiling, config.detector, STRIDE_PX)
            masks = find_blank(slide, config.tiling, sweeps)
            mpp = slide.info.mpp
    except SlideError as error:
        return RefusedFile(row.slide_id, row.path, str(error))
    seen = [int((~mask).sum()) for mask in masks]
    return SlidePlan(
        row=row,
        committed=committed,
        tiles=sum(len(sweep) for sweep in sweeps),
        blank=sum(int(mask.sum()) for mask in masks),
        detection_megapixels=sum(
            count * sweep.window_px**2 / 1e6 for count, sweep in zip(seen, sweeps, strict=True)
        ),
        covered_mm2=seen[0] * (sweeps[0].core_px * sweeps[0].scale * mpp / 1000) ** 2,
    )


def _memory(config: RunConfig) -> int:
    """Models, tiles waiting for the detector, activations of a batch, crops waiting for the embedder."""
    sweep = config.detector.passes[0]
    window_px = config.tiling.tile_px * 0.25 / sweep.um_per_px + sweep.largest_um / sweep.um_per_px
    batch_bytes = config.detector.batch * window_px**2 * 3
    crops_bytes = 4 * config.embedder.batch * config.crops.size_px**2 * 3
    # A nano network keeps some 60 floats of activation per input pixel alive at its widest point.
    return round(MODELS_BYTES + 3 * batch_bytes + batch_bytes / 3 * 60 * 4 + crops_bytes)


def _crop_bytes(config: RunConfig) -> int:
    share = (config.crops.size_px / 224) ** 2
    return round(CROP_BYTES * share * (1 if config.crops.encoding == "jpeg" else 8))
