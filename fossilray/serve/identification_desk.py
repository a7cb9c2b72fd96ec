"""Identification for the pages: the identifier over all runs, the images of the last uploads, and their crops."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.identify.identifier import Identifier, Specimens, comparable
from fossilray.analysis.identify.opening import crops_as_stored, open_index_specimens
from fossilray.analysis.identify.photograph import Photograph
from fossilray.analysis.identify.result import ImageIdentification
from fossilray.analysis.identify.specimens_of_run import (
    MOST_COMPARED,
    GivenName,
    ObjectName,
    RunSpecimens,
    given_name,
)
from fossilray.core.config import CropsConfig, StoreConfig
from fossilray.core.config.choices import ImageView
from fossilray.core.errors import FossilrayError, UsageError
from fossilray.core.types import Image
from fossilray.serve.decoding import UploadDecoder
from fossilray.serve.served_run import ServedRun
from fossilray.slides.overview import shrink
from fossilray_jpeg import encode_jpeg

_MOST_KEPT_BYTES = 256 * 2**20
_MOST_WAITING = 4
_SHOWN_PX = 1600
_CROP_PX = 480
_QUALITY = 88


@dataclass(frozen=True)
class IdentificationSettings:
    """How uploads are identified; each as of `fossilray identify`."""

    head: Path | None = None
    index: str | None = None
    backbone: str = "bundled"
    access: StoreConfig | None = None
    """To the index."""


@dataclass(frozen=True, eq=False)
class KeptImage:
    """An identified upload: its result, pictures as JPEG, and the crops (n, S, S, 3) that were embedded."""

    result: ImageIdentification
    picture: bytes
    pictures: tuple[bytes, ...]
    crops: NDArray[np.uint8]

    @property
    def held_bytes(self) -> int:
        return len(self.picture) + sum(map(len, self.pictures)) + self.crops.nbytes


class Busy(FossilrayError):
    """More uploads wait than are taken."""


class IdentificationDesk:
    """Identifies uploads, one at a time; the networks are loaded at the first use."""

    def __init__(self, runs: Sequence[ServedRun], settings: IdentificationSettings | None = None) -> None:
        """Take the runs whose objects are compared; a head of another backbone is refused at once.

        Raises:
            UsageError: the head is of another backbone than that of the settings.
            WeightsError: the head cannot be loaded.
        """
        self._runs, self._settings = runs, settings or IdentificationSettings()
        self._loading = threading.Lock()
        self._waiting = threading.BoundedSemaphore(_MOST_WAITING + 1)
        self._decoder = UploadDecoder()
        self._guard = threading.Lock()
        self._kept: OrderedDict[str, KeptImage] = OrderedDict()
        self.left_out: tuple[str, ...] = ()
        """Runs that are not compared, with the reason; known when the identifier is loaded."""
        if self._settings.head is not None:
            self.identifier  # noqa: B018  a head that does not fit is refused before the server starts

    @property
    def identifier(self) -> Identifier:
        """The identifier, loaded at the first use."""
        with self._loading:
            return self._loaded

    @cached_property
    def _loaded(self) -> Identifier:
        specimens, crops = self._open()
        kept, reasons = comparable(specimens, self._settings.backbone)
        self.left_out = (*self.left_out, *reasons)
        self._decoder.start()
        return Identifier(
            backbone=self._settings.backbone, head=self._settings.head, specimens=kept, crops=crops
        )

    def _open(self) -> tuple[list[Specimens], CropsConfig | None]:
        if self._settings.index is not None:
            labels = {run.store.source_run.url: partial(_names_now, run) for run in self._runs}
            opened = open_index_specimens(self._settings.index, labels, access=self._settings.access)
            return list(opened.specimens), opened.crops
        specimens: list[Specimens] = []
        for run in self._runs:
            try:
                specimens.append(
                    RunSpecimens(
                        run.store, partial(_names_now, run), most=max(1, MOST_COMPARED // len(self._runs))
                    )
                )
            except UsageError as error:  # a run without embeddings
                self.left_out = (*self.left_out, str(error))
        stated = [run.store.read_run().config["crops"] for run in self._runs[:1]]
        return specimens, crops_as_stored(stated[0]) if stated else None

    def identify(
        self, content: bytes, *, name: str, view: ImageView = "auto", mpp: float | None = None
    ) -> tuple[str, ImageIdentification]:
        """Identify an upload and return the id under which it is kept, and its result.

        Raises:
            Busy: others wait already.
            UsageError: it cannot be decoded.
            SlideError: it shows noise.
            StoreError: specimens of a run are missing or damaged.
        """
        if not self._waiting.acquire(blocking=False):
            raise Busy("other images are identified at the moment; try again in a few seconds")
        try:
            identifier = self.identifier
            photograph = self._decoder.decode(content, name=name, mpp=mpp)
            identified = identifier.identify(photograph, view=view)
        finally:
            self._waiting.release()
        notes = (*identified.result.notes, *(f"Not compared: {reason}." for reason in self.left_out))
        result = identified.result.model_copy(update={"notes": notes})
        boxes = [each.box for each in result.objects]
        kept = KeptImage(
            result,
            _jpeg(photograph.pixels, _SHOWN_PX),
            tuple(_jpeg(_cut(photograph, box), _CROP_PX) for box in boxes),
            identified.crops,
        )
        key = secrets.token_urlsafe(16)
        with self._guard:
            self._kept[key] = kept
            while (
                sum(each.held_bytes for each in self._kept.values()) > _MOST_KEPT_BYTES
                and len(self._kept) > 1
            ):
                self._kept.popitem(last=False)
        return key, result

    def kept(self, key: str) -> KeptImage:
        """Return an identified upload.

        Raises:
            UsageError: it is not kept any more.
        """
        with self._guard:
            if key not in self._kept:
                raise UsageError("this image is not kept any more; identify it again")
            self._kept.move_to_end(key)
            return self._kept[key]

    def crop(self, key: str, number: int) -> bytes:
        """Return the picture of an object as JPEG.

        Raises:
            UsageError: there is no such object.
        """
        kept = self.kept(key)
        if not 0 <= number < len(kept.pictures):
            raise UsageError(f"this image has {len(kept.pictures)} objects, no object {number}")
        return kept.pictures[number]

    def heat_map(self, key: str, number: int, taxon: str) -> bytes:
        """Return the heat map of a class over an object as JPEG, in the object's proportions.

        Raises:
            UsageError: there is no such object, class or head.
        """
        self.crop(key, number)
        kept = self.kept(key)
        left, top, right, bottom = kept.result.objects[number].box
        heat = self.identifier.heat_map(kept.crops[number], taxon)
        scale = heat.shape[0] / max(right - left, bottom - top)
        width, height = (max(1, round(side * scale)) for side in (right - left, bottom - top))
        return encode_jpeg(shrink(heat, width, height), quality=_QUALITY)

    def close(self) -> None:
        """End the process that waits for an upload."""
        self._decoder.close()


def _names_now(run: ServedRun) -> Mapping[ObjectName, GivenName]:
    """Return the names of a run's labelled objects at this moment."""
    if run.desk is None:
        return {}
    attempts = {slide_id: summary.attempt for slide_id, summary in run.summaries.items()}
    return {
        (slide_id, object_id): given_name(labels)
        for (slide_id, object_id, attempt), labels in run.desk.labelled().items()
        if object_id >= 0 and attempts.get(slide_id) == attempt
    }


def _cut(photograph: Photograph, box: tuple[int, int, int, int]) -> Image:
    left, top, right, bottom = box
    return photograph.pixels[top:bottom, left:right]


def _jpeg(pixels: Image, most_px: int) -> bytes:
    height, width = pixels.shape[:2]
    scale = min(1.0, most_px / max(width, height))
    size = (max(1, round(side * scale)) for side in (width, height))
    return encode_jpeg(np.ascontiguousarray(shrink(pixels, *size) if scale < 1 else pixels), quality=_QUALITY)
