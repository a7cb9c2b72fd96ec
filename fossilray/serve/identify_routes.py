"""Routes of the API that identify images, below /api/identify. Pictures have the id of the upload in their address."""

from __future__ import annotations

import math
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from fossilray.core.config.choices import ImageView
from fossilray.core.errors import SlideError, UsageError
from fossilray.core.text import strip_control_characters
from fossilray.serve.identification_desk import Busy, IdentificationDesk
from fossilray.serve.messages import IdentificationMessage, IdentifierMessage

identify_router = APIRouter(prefix="/api/identify")

MOST_UPLOAD_BYTES = 64 * 2**20
_KEPT = {"cache-control": "private, max-age=86400, immutable"}
_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
"""The body, which is read as it comes, for the description of the API."""


def _desk(request: Request) -> IdentificationDesk:
    desk: IdentificationDesk = request.app.state.identification
    return desk


Desk = Annotated[IdentificationDesk, Depends(_desk)]


@identify_router.get("")
def identifier(desk: Desk) -> IdentifierMessage:
    """What identifies images; the networks, and the vectors to compare with, are loaded if they are not yet."""
    loaded = desk.identifier
    return IdentifierMessage(
        head=loaded.head,
        classes=list(loaded.classes),
        backbone=loaded.backbone,
        detector=loaded.detector,
        scopes=list(loaded.scopes),
        left_out=list(desk.left_out),
    )


@identify_router.post("", openapi_extra=_UPLOAD)
async def identify_image(
    request: Request,
    desk: Desk,
    name: Annotated[str, Query(max_length=200)] = "image",
    view: ImageView = "auto",
    mpp: Annotated[float | None, Query()] = None,
) -> IdentificationMessage:
    """Identify the image that is the body of the request, and keep it for a while under an id."""
    content = bytearray()
    try:
        async for part in request.stream():
            content += part
            if len(content) > MOST_UPLOAD_BYTES:
                raise HTTPException(413, f"an image may have {MOST_UPLOAD_BYTES:,} bytes")
    except ClientDisconnect:
        raise HTTPException(400, "the image did not arrive whole") from None
    if not content:
        raise HTTPException(422, "the request has no image")
    if mpp is not None and not math.isfinite(mpp):
        raise HTTPException(422, "mpp is no number")
    shown = strip_control_characters(name) or "image"
    try:
        key, result = await run_in_threadpool(desk.identify, bytes(content), name=shown, view=view, mpp=mpp)
    except Busy as error:
        raise HTTPException(429, str(error)) from None
    except (UsageError, SlideError) as error:
        raise HTTPException(422, str(error)) from None
    runs = {}
    for run in request.app.state.runs.values():
        runs[run.store.url] = runs[run.store.source_run.url] = run.key
    return IdentificationMessage(id=key, result=result, runs=runs)


@identify_router.get("/{key}/image.jpg", response_class=Response)
def uploaded_image(desk: Desk, key: str) -> Response:
    """The uploaded image, at most 1,600 px along its longest side."""
    return Response(desk.kept(key).picture, media_type="image/jpeg", headers=_KEPT)


@identify_router.get("/{key}/crops/{number}.jpg", response_class=Response)
def crop_of_upload(desk: Desk, key: str, number: int) -> Response:
    """An object of the image, at most 480 px along its longest side."""
    return Response(desk.crop(key, number), media_type="image/jpeg", headers=_KEPT)


@identify_router.get("/{key}/heat/{number}.jpg", response_class=Response)
def heat_map_of_upload(
    desk: Desk, key: str, number: int, taxon: Annotated[str, Query(max_length=300)]
) -> Response:
    """The heat map of a class of the head over an object."""
    return Response(desk.heat_map(key, number, taxon), media_type="image/jpeg", headers=_KEPT)
