"""Routes of the API, all under /api. Images have the attempt in their address, so browsers keep them for ever."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import StreamingResponse

from fossilray.core.config.choices import TaxonOrder, TaxonRank
from fossilray.core.errors import UnreadableRegion
from fossilray.core.version import __version__
from fossilray.labels.agreement import Naming, agree
from fossilray.labels.occurrence import OBJECT_KINDS
from fossilray.serve.act import RecordedAct
from fossilray.serve.messages import (
    ActsMessage,
    CropMessage,
    GridMessage,
    LabelMessage,
    MissedMessage,
    ObjectMessage,
    OutcomeMessage,
    RunMessage,
    SessionMessage,
    SlideMessage,
    SlideObjectsMessage,
    SlideViewMessage,
    TaxonMessage,
    WellChartMessage,
)
from fossilray.serve.object_table import Order
from fossilray.serve.overview import list_slides, summarise_run, summarise_slide
from fossilray.serve.request_parts import Run, Who
from fossilray.serve.served_run import GridQuery, Queue, ServedRun
from fossilray.serve.well_chart import ChartQuery

router = APIRouter(prefix="/api")

_IMMUTABLE = {"cache-control": "private, max-age=31536000, immutable"}
_KEEP_OPEN_S = 15.0
_EVENT_FIELDS = {"id", "slide_id", "object_id", "attempt", "who", "at", "states", "withdrawn"}

Status = Literal["all", "unlabelled", "labelled", "unsure", "conflict"]


@router.get("/session")
def session(request: Request, who: Who) -> SessionMessage:
    """Who looks, and what is served."""
    return SessionMessage(
        name=who.name, may_label=who.may_label, runs=list(request.app.state.runs), version=__version__
    )


@router.get("/runs/{run}")
def run_at_a_glance(served: Run) -> RunMessage:
    """A run's figures and wells."""
    return summarise_run(served)


@router.get("/runs/{run}/slides")
def slides(served: Run) -> list[SlideMessage]:
    """All committed slides, by well and depth."""
    return list_slides(served)


@router.get("/runs/{run}/slides/{slide_id}")
def slide(served: Run, slide_id: str) -> SlideViewMessage:
    """What a viewer needs of a slide."""
    return summarise_slide(served, slide_id)


@router.get("/runs/{run}/slides/{slide_id}/objects")
def slide_objects(served: Run, slide_id: str) -> SlideObjectsMessage:
    """The objects of a slide, as columns."""
    served.slide(slide_id)
    table = served.objects
    rows = table.rows_of_slide(slide_id)
    boxes = table.boxes[rows].T.tolist()
    labels = {}
    if served.desk is not None:
        for (slide_of, object_id, _), given in served.desk.labelled().items():
            if slide_of == slide_id and object_id >= 0:
                labels[object_id] = LabelMessage.of(given[-1])
    return SlideObjectsMessage(
        object_id=table.object_id[rows].tolist(),
        x_min=boxes[0],
        y_min=boxes[1],
        x_max=boxes[2],
        y_max=boxes[3],
        score=[round(value, 3) for value in table.score[rows].tolist()],
        taxon=table.taxon[rows].tolist(),
        confidence=[_known(value) for value in table.confidence[rows].tolist()],
        taxa=list(table.taxa),
        labels=labels,
        missed=[
            MissedMessage(box=label.box, name=label.occurrence.shown, who=label.who)
            for label in served.missed_on(slide_id)
        ],
    )


@router.get(
    "/runs/{run}/slides/{slide_id}/{attempt}/tiles/{level}/{column}_{row}.jpg", response_class=Response
)
def tile(served: Run, slide_id: str, attempt: str, level: int, column: int, row: int) -> Response:
    """A tile of a slide's pyramid, 256 px wide and high but at the rim."""
    summary = served.slide(slide_id)
    _expect_attempt(summary.attempt, attempt)
    try:
        content = served.tiles.tile(summary, level, column, row)
    except UnreadableRegion as error:
        raise HTTPException(410, str(error)) from None
    return Response(content, media_type="image/jpeg", headers=_IMMUTABLE)


@router.get("/runs/{run}/slides/{slide_id}/{attempt}/crops/{object_id}.jpg", response_class=Response)
def crop(served: Run, slide_id: str, attempt: str, object_id: int) -> Response:
    """The crop of an object as it was stored."""
    return Response(served.crop(slide_id, attempt, object_id), media_type="image/jpeg", headers=_IMMUTABLE)


@router.get("/runs/{run}/slides/{slide_id}/{attempt}/surroundings/{object_id}.jpg", response_class=Response)
def surroundings(served: Run, slide_id: str, attempt: str, object_id: int) -> Response:
    """An object with what lies around it, cut from the slide; the region is in the header `x-region`."""
    _expect_attempt(served.slide(slide_id).attempt, attempt)
    content, region = served.surroundings(slide_id, object_id)
    headers = {**_IMMUTABLE, "x-region": ",".join(map(str, region))}
    return Response(content, media_type="image/jpeg", headers=headers)


@router.get("/runs/{run}/objects")
def grid(
    served: Run,
    status: Status = "all",
    taxon: Annotated[list[str] | None, Query()] = None,
    label: str | None = None,
    slide: Annotated[list[str] | None, Query()] = None,
    well: str | None = None,
    least: Annotated[float, Query(ge=0, le=1)] = 0.0,
    most: Annotated[float, Query(ge=0, le=1)] = 1.0,
    order: Order = "slide",
    seed: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    queue: Queue = "all",
    first: Annotated[int, Query(ge=0)] = 0,
    count: Annotated[int, Query(ge=1, le=500)] = 200,
) -> GridMessage:
    """A page of the objects that meet the conditions; several taxa or slides: any of them.

    In the queue of an audit no predictions are shown.
    """
    taxa, slides = (None if given is None else tuple(given) for given in (taxon, slide))
    rows = served.grid(GridQuery(status, taxa, label, slides, well, least, most, order, seed, queue))
    page = rows[first : first + count]
    return GridMessage(total=len(rows), crops=[_crop(served, row, queue) for row in page.tolist()])


def _crop(served: ServedRun, row: int, queue: Queue) -> CropMessage:
    table = served.objects
    slide_id, object_id = table.slides[table.slide[row]], int(table.object_id[row])
    labels = served.labels_of(slide_id, object_id)
    taxon, confidence = int(table.taxon[row]), float(table.confidence[row])
    is_hidden = queue == "audit"
    x_min, y_min, x_max, y_max = table.boxes[row].tolist()
    width_um, height_um = np.round(table.size_um[row], 1).tolist()
    return CropMessage(
        slide_id=slide_id,
        object_id=object_id,
        attempt=served.summaries[slide_id].attempt,
        box=(x_min, y_min, x_max, y_max),
        width_um=width_um,
        height_um=height_um,
        taxon=table.taxa[taxon] if taxon >= 0 and not is_hidden else None,
        confidence=None if is_hidden else _known(confidence),
        label=LabelMessage.of(labels[-1]) if labels else None,
        conflict=len(labels) > 1 and agree([label.occurrence for label in labels], Naming()).is_conflict,
    )


@router.get("/runs/{run}/objects/{slide_id}/{object_id}")
def one_object(served: Run, slide_id: str, object_id: int, queue: Queue = "all") -> ObjectMessage:
    """All columns of an object, its prediction but in the queue of an audit, and the label of each annotator."""
    summary = served.slide(slide_id)
    columns = served.describe(slide_id, object_id)
    if columns is None:
        raise HTTPException(404, f"{slide_id} has no object {object_id}")
    if queue == "audit":
        columns = {name: value for name, value in columns.items() if not name.startswith("genus")}
    return ObjectMessage(
        columns=columns,
        well=summary.well,
        depth_m=summary.measured_depth_m,
        labels=[LabelMessage.of(label) for label in served.labels_of(slide_id, object_id)],
    )


@router.get("/runs/{run}/taxa")
def taxa(served: Run) -> list[TaxonMessage]:
    """Names that were predicted or given, with counts, the most common first; then kinds that are no fossils."""
    table = served.objects
    predicted = np.bincount(table.taxon[table.taxon >= 0], minlength=len(table.taxa)).tolist()
    counted = dict(zip(table.taxa, predicted, strict=True))
    labelled = {} if served.desk is None else served.desk.counts()
    names = sorted(
        counted.keys() | labelled.keys(),
        key=lambda name: (name in OBJECT_KINDS, -labelled.get(name, (0, 0))[0], -counted.get(name, 0), name),
    )
    return [
        TaxonMessage(
            name=name,
            predicted=counted.get(name, 0),
            labelled=labelled.get(name, (0, 0))[0],
            doubtful=labelled.get(name, (0, 0))[1],
        )
        for name in names
    ]


@router.get("/runs/{run}/chart")
def well_chart(
    served: Run,
    well: str,
    rank: TaxonRank = "genus",
    order: TaxonOrder = "last-occurrence",
    leave_out: Annotated[list[str] | None, Query()] = None,
) -> WellChartMessage:
    """The range chart of a well, from labels and predictions."""
    return served.charts.chart(ChartQuery(well, rank, order, tuple(leave_out or ())))


@router.post("/runs/{run}/acts")
def record_acts(served: Run, who: Who, message: ActsMessage) -> OutcomeMessage:
    """Write acts through to the disk; what is accepted is safe. An act that is sent again counts once."""
    if served.desk is None:
        raise HTTPException(409, "nothing can be labelled: start `fossilray serve` with --labels FOLDER")
    if not who.may_label:
        raise HTTPException(403, f"{who.name} may look, not label")
    outcome = served.desk.record(message.acts, who=who.name)
    return OutcomeMessage(accepted=list(outcome.accepted), refused=dict(outcome.refused))


@router.get("/runs/{run}/events", response_class=StreamingResponse)
async def events(request: Request, served: Run) -> StreamingResponse:
    """The acts of everybody from now on, as server-sent events."""

    async def lines() -> AsyncIterator[str]:
        waiting: asyncio.Queue[tuple[int, RecordedAct]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def hear(number: int, act: RecordedAct) -> None:
            loop.call_soon_threadsafe(waiting.put_nowait, (number, act))

        end = served.desk.listen(hear) if served.desk is not None else None
        try:
            yield ": open\n\n"
            while not await request.is_disconnected():
                try:
                    number, act = await asyncio.wait_for(waiting.get(), _KEEP_OPEN_S)
                except TimeoutError:
                    yield ": still open\n\n"
                    continue
                yield f"id: {number}\ndata: {act.model_dump_json(include=_EVENT_FIELDS)}\n\n"
        finally:
            if end is not None:
                end()

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"cache-control": "no-store"})


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 3)


def _expect_attempt(current: str, attempt: str) -> None:
    if current != attempt:
        raise HTTPException(404, "the slide was processed again; load the page again")
