"""A run and its slides as the pages list them."""

from __future__ import annotations

from collections import defaultdict

from fossilray.core.records import SlideSummary
from fossilray.labels.label import MISSED
from fossilray.serve.messages import AuditMessage, RunMessage, SlideMessage, SlideViewMessage, WellMessage
from fossilray.serve.served_run import ServedRun
from fossilray.serve.slide_tiles import TILE_PX, pyramid_of
from fossilray.store.run.slide_states import read_states


def summarise_run(served: ServedRun) -> RunMessage:
    """Return a run's figures and wells."""
    by_well: dict[str, list[SlideSummary]] = defaultdict(list)
    for row in served.summaries.values():
        by_well[row.well or ""].append(row)
    table = served.objects
    is_whole = len(table.slides) == table.total_slides
    desk = served.desk
    return RunMessage(
        key=served.key,
        url=served.store.url,
        slides=len(served.summaries),
        objects=sum(row.objects for row in served.summaries.values()),
        scanned_mm2=round(sum(row.scanned_mm2 for row in served.summaries.values()), 1),
        failed=read_states(served.store).counts.failed,
        wells=[_well(well, rows) for well, rows in sorted(by_well.items())],
        predictions=None if served.predictions is None else served.predictions.results.name,
        labels=None if desk is None else str(desk.folder),
        labelled=0 if desk is None else len(desk.labelled()),
        conflicts=0 if desk is None else len(desk.conflicts()),
        held_objects=None if is_whole else len(table),
        held_slides=None if is_whole else len(table.slides),
        audit=None
        if served.audit is None
        else AuditMessage(
            id=served.audit.record.id,
            objects=len(served.audit.objects),
            labelled=served.audited_and_labelled(),
        ),
    )


def list_slides(served: ServedRun) -> list[SlideMessage]:
    """Return all committed slides, by well, depth and name."""
    labelled = _labelled(served)
    return [_slide(row, labelled) for row in _in_order(served)]


def summarise_slide(served: ServedRun, slide_id: str) -> SlideViewMessage:
    """Return what a viewer needs of a slide.

    Raises:
        UsageError: the run holds no such slide.
    """
    row = served.slide(slide_id)
    order = [other.slide_id for other in _in_order(served)]
    position = order.index(slide_id)
    bounds = (row.bounds_x, row.bounds_y, row.bounds_x + row.bounds_width, row.bounds_y + row.bounds_height)
    return SlideViewMessage(
        **_slide(row, _labelled(served)).model_dump(),
        path=row.path,
        mpp=row.mpp,
        bounds=bounds,
        tile_px=TILE_PX,
        top_level=pyramid_of(row).top,
        previous=order[position - 1] if position else None,
        next=order[position + 1] if position + 1 < len(order) else None,
    )


def _in_order(served: ServedRun) -> list[SlideSummary]:
    return sorted(
        served.summaries.values(),
        key=lambda row: (
            row.well or "",
            row.measured_depth_m if row.measured_depth_m is not None else float("inf"),
            row.slide_id,
        ),
    )


def _labelled(served: ServedRun) -> dict[str, int]:
    counted: dict[str, int] = defaultdict(int)
    for slide_id, object_id, _ in () if served.desk is None else served.desk.labelled():
        counted[slide_id] += object_id != MISSED
    return counted


def _slide(row: SlideSummary, labelled: dict[str, int]) -> SlideMessage:
    return SlideMessage(
        slide_id=row.slide_id,
        attempt=row.attempt,
        well=row.well,
        depth_m=row.measured_depth_m,
        objects=row.objects,
        labelled=labelled.get(row.slide_id, 0),
        doubts=[doubt.sentence for doubt in row.doubts or ()],
    )


def _well(well: str, rows: list[SlideSummary]) -> WellMessage:
    depths = [row.measured_depth_m for row in rows if row.measured_depth_m is not None]
    return WellMessage(
        well=well,
        slides=len(rows),
        objects=sum(row.objects for row in rows),
        top_m=min(depths, default=None),
        base_m=max(depths, default=None),
    )
