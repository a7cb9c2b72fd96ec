"""Report of a run: one HTML page of figures, pictures, depths, losses and provenance, without network or scripts."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from fossilray.analysis.report.contact_sheets import draw_similarity_map, make_contact_sheets
from fossilray.analysis.report.figures import draw_depth_chart, draw_distributions
from fossilray.analysis.report.genera import show_genera
from fossilray.analysis.report.statistics import (
    MAX_WELLS,
    WellDepthChart,
    by_depth,
    chart_wells,
    choose_sample,
    example_queries,
    measure_distributions,
    round_figure,
    subsample_by_depth,
    total,
    write_headline,
)
from fossilray.core.atomic_files import atomic_text
from fossilray.core.config.choices import CropFit
from fossilray.core.errors import StoreError, StoreUnreachable
from fossilray.core.formats.images import decode_image
from fossilray.core.records import Doubt, Failure, SlideSummary
from fossilray.core.schemas import SLIDES_SCHEMA
from fossilray.core.text import (
    format_bytes,
    format_cell,
    format_duration,
    format_percent,
    strip_control_characters,
)
from fossilray.core.types import Image
from fossilray.labels.determinations import Determinations, read_determinations
from fossilray.render.crops import jpeg_data_uri, jpeg_uri
from fossilray.render.html import template_environment
from fossilray.render.slide_overview import LEGEND_PX, SIZE_CLASSES
from fossilray.store import RunStore
from fossilray.store.cost import describe_cost, sum_cost
from fossilray.store.derived.derived_store import derived_names
from fossilray.store.derived.listing import DerivedListing, current_predictions
from fossilray.store.files.parquet import to_table
from fossilray.store.query.connection import connect, create_objects_view
from fossilray.store.run.doubts import doubts_of_run
from fossilray.store.run.focus_planes import describe_planes
from fossilray.store.run.layout import picture_path
from fossilray.store.run.roles import picture as picture_file
from fossilray.store.run.slide_states import read_states

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_LISTED_SLIDES = 200
MAX_LISTED_FAILURES = 60
MAX_LISTED_DOUBTS = 200
LARGE_PICTURES = 6

_SMALL_PX = 260
_MAX_PICTURE_PX = 64_000_000
_LARGE_BYTES = 600_000  # a larger picture is encoded again at a lower quality
_STAGES = ("fetch", "open", "detect", "merge", "crops", "embed", "write")


@dataclass(frozen=True)
class ShownSlide:
    """A committed slide on the page."""

    summary: SlideSummary
    name: str
    per_mm2: float
    small_uri: str | None
    large_uri: str | None


@dataclass(frozen=True)
class ShownWell:
    """A well's depth chart as SVG."""

    chart: WellDepthChart
    svg: str


def write_report(
    store: RunStore,
    out: Path,
    *,
    head: str | None = None,
    labels: Path | None = None,
    now: datetime | None = None,
) -> Path:
    """Write the report of a run to one file and return its path.

    In a run of very many slides, objects are shown from a bounded sample of slides; the page states its size.

    Args:
        head: name of the predictions to show; None: the newest, if there are any.
        labels: label set of experts, which go before predictions in range charts; None: none.
        now: time of writing; None: the current time.

    Raises:
        RunNotFound: there is no run at this URL, or it has no predictions of this name.
        StoreError: the run or the predictions are damaged.
        UsageError: the file cannot be written.
    """
    # The file is opened first, so that a path that cannot be written fails before the work.
    with atomic_text(out) as file:
        determinations = None if labels is None else read_determinations(labels, store)
        context = _template_context(store, head, determinations, now or datetime.now(UTC))
        file.write(_environment().get_template("report.html.j2").render(context))
    return out


def _template_context(
    store: RunStore, head: str | None, determinations: Determinations | None, now: datetime
) -> dict[str, Any]:
    """Return the variables of the template."""
    run = store.read_run()
    slides = store.summaries()
    states = read_states(store)
    failures = states.failures
    sample = choose_sample(slides)
    con = connect(store)
    files = store.committed_files()
    predictions = current_predictions(store, head, sample)
    if len(sample) < len(slides) or predictions is not None:
        shown = sorted({slide.slide_id for slide in sample} & files.keys())
        create_objects_view(con, store, {slide_id: files[slide_id] for slide_id in shown}, genera=predictions)
    measures = measure_distributions(con)
    objects = len(measures.score)
    charts = list(chart_wells(con, slides)) if slides else []
    densest = max((sample.objects_per_mm2 for chart in charts for sample in chart.samples), default=0.0)
    fit: CropFit = "letterbox" if run.config["crops"]["fit"] == "letterbox" else "stretch"
    with_vectors = run.config["embedder"]["weights"] != "none"
    listed = subsample_by_depth(by_depth(slides), MAX_LISTED_SLIDES)
    shown_doubts = _list_doubts(store, slides)
    return {
        "url": store.url,
        "name": _title(store.url),
        "written_at": now,
        "run": run,
        "config_yaml": yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True),
        "headline": write_headline(slides, measures.longest_um),
        "totals": total(slides),
        "counts": states.counts,
        "state_of": states.by_slide,
        "median_um": float(np.median(measures.longest_um)) if objects else None,
        "sampled": len(sample) if len(sample) < len(slides) else None,
        "wells": [
            ShownWell(chart, draw_depth_chart(chart.samples, densest_per_mm2=densest, name=f"well-{number}"))
            for number, chart in enumerate(charts)
        ],
        "genera": None
        if predictions is None and determinations is None
        else show_genera(
            con,
            store,
            sample,
            predictions,
            determinations=determinations,
            others=_other_heads(store, predictions),
            fit=fit,
        ),
        "max_wells": MAX_WELLS,
        "size_classes": SIZE_CLASSES,
        "distributions": draw_distributions(measures) if objects else None,
        "sheets": list(make_contact_sheets(con, store, slides=len(sample), fit=fit)) if objects else [],
        "similarity_map": draw_similarity_map(con, store, fit=fit) if objects and with_vectors else None,
        "slides": list(_show_slides(store, listed)),
        "stages": _mean_stages(slides),
        "cost": " ".join(_cost(store, slides, left=states.counts.left)),
        "focus_planes": describe_planes(to_table(slides, SLIDES_SCHEMA)),
        "doubts": shown_doubts[:MAX_LISTED_DOUBTS],
        "doubt_count": len(shown_doubts),
        "lossy": sorted(filter(_has_losses, slides), key=_lost_share, reverse=True)[:20],
        "failures": failures[:MAX_LISTED_FAILURES],
        "failure_count": len(failures),
        "failure_classes": _count_classes(failures),
        "examples": list(example_queries(con)) if objects else [],
    }


def _other_heads(store: RunStore, shown: DerivedListing | None) -> list[str]:
    name = None if shown is None else shown.results.name
    return [other for other in derived_names(store.source_run, "predictions") if other != name]


def _title(url: str) -> str:
    """Return the name of the run's folder, or of its parent if the folder is named run."""
    path = PurePosixPath(url)
    return (path.parent.name if path.name.lower() == "run" else path.name) or url


def _show_slides(store: RunStore, slides: Sequence[SlideSummary]) -> Iterator[ShownSlide]:
    with_large = {
        slide.slide_id
        for slide in subsample_by_depth([slide for slide in slides if slide.objects], LARGE_PICTURES)
    }
    for slide in slides:
        picture = _picture(store, slide.slide_id)
        yield ShownSlide(
            summary=slide,
            name=PurePosixPath(slide.path).name,
            per_mm2=slide.objects / slide.scanned_mm2 if slide.scanned_mm2 > 0 else 0.0,
            small_uri=None if picture is None else _shrink(picture[1]),
            large_uri=None if picture is None or slide.slide_id not in with_large else _embed(*picture),
        )


def _picture(store: RunStore, slide_id: str) -> tuple[bytes, Image] | None:
    """Return a slide's overview as JPEG and as pixels. A damaged file is recorded in `store.left_out` and skipped."""
    try:
        jpeg = store.picture(slide_id)
        if jpeg is None:
            return None
        role = picture_file(f"{store.source_run.url}/{picture_path(slide_id)}")
        return jpeg, decode_image(jpeg, role, most_px=_MAX_PICTURE_PX)
    except StoreUnreachable:
        raise
    except StoreError as error:
        store.left_out.add(error)
        return None


def _embed(jpeg: bytes, pixels: Image) -> str:
    """Return the picture as a data URI at full size."""
    return jpeg_data_uri(jpeg) if len(jpeg) <= _LARGE_BYTES else jpeg_uri(pixels, quality=72)


def _shrink(pixels: Image) -> str:
    """Return the picture as a small data URI, without its legend."""
    from PIL import Image as Pillow

    image = Pillow.fromarray(pixels)
    image = image.crop((0, 0, image.width, max(image.height - LEGEND_PX, 1)))
    image.thumbnail((_SMALL_PX, _SMALL_PX), Pillow.Resampling.LANCZOS)
    return jpeg_uri(np.asarray(image))


def _cost(store: RunStore, slides: Sequence[SlideSummary], *, left: int) -> list[str]:
    """Return the machine time and cost of the run, in sentences."""
    return describe_cost(sum_cost(store.attempts.heartbeats(), to_table(slides, SLIDES_SCHEMA), left=left))


def _list_doubts(store: RunStore, slides: Sequence[SlideSummary]) -> list[tuple[str, Doubt]]:
    """Return the findings about slides of the run and its catalog, with their slide_id."""
    doubts = doubts_of_run(to_table(slides, SLIDES_SCHEMA), store.readable_catalog() or [])
    return [(slide_id, doubt) for slide_id, of_slide in doubts.items() for doubt in of_slide]


def _mean_stages(slides: Sequence[SlideSummary]) -> list[tuple[str, float]]:
    """Return the mean seconds per slide in each stage."""
    if not slides:
        return []
    return [
        (stage, sum(getattr(slide, f"seconds_{stage}") for slide in slides) / len(slides))
        for stage in _STAGES
    ]


def _has_losses(slide: SlideSummary) -> bool:
    return bool(slide.tiles_failed or slide.crops_failed or slide.crops_coarser)


def _lost_share(slide: SlideSummary) -> float:
    """Return the lost share of the pass that lost most, or of the finest pass if that is all the record has."""
    return slide.finest_lost_share if slide.lost_share is None else slide.lost_share


def _count_classes(failures: Sequence[Failure]) -> list[tuple[str, int]]:
    """Return the number of slides by the class of their last error, the most frequent first."""
    last = {failure.slide_id: failure.error for failure in failures}
    return Counter(last.values()).most_common()


def _environment() -> Environment:
    environment = template_environment(finalize=_without_controls)
    environment.filters["lost_share"] = _lost_share
    environment.filters["short"] = round_figure
    environment.filters["tenth"] = lambda number: f"{number:,.1f}"
    environment.filters["shell"] = shlex.quote
    environment.filters["percent"] = format_percent
    environment.filters["bytes"] = format_bytes
    environment.filters["duration"] = format_duration
    environment.filters["cell"] = format_cell
    environment.filters["minute"] = lambda time: str(time)[:16].replace("T", " ")
    environment.filters["python"] = repr
    return environment


def _without_controls(value: object) -> object:
    """Replace control characters in text, except line ends; markup that is marked safe is returned unchanged."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return "\n".join(strip_control_characters(line) for line in value.split("\n"))
    return value
