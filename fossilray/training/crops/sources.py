"""Where crops lie and how their pixels are had: runs, compacted datasets, folders of images by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import StoreAccessDenied, StoreError, StoreUnreachable, UsageError
from fossilray.core.images import IMAGE_SUFFIXES, read_image, resize_to
from fossilray.core.types import Image
from fossilray.store import RunStore
from fossilray.store.arrays.crops import read_encoded_crops
from fossilray.store.arrays.group import crop_decoder
from fossilray.store.arrays.jpeg_codec import decode_crop_above
from fossilray.store.dataset.dataset_store import source_run

Encoded = bytes | StoreError
"""A crop as it is stored, or why it could not be read."""


class CropSource(Protocol):
    """One place that crops come from; its units are slides, or single images."""

    @property
    def url(self) -> str: ...

    @property
    def stored_px(self) -> int | None:
        """Side of its crops; None where each has its own."""
        ...

    def read(self, place: str, object_id: NDArray[np.int32]) -> Sequence[Encoded]:
        """The stored bytes of some crops of one unit.

        Raises:
            StoreUnreachable: the store does not answer; no crop is to blame.
            StoreAccessDenied: it answers that it was not allowed.
        """
        ...

    def decode(self, encoded: bytes, out: Image) -> tuple[float, float] | None:
        """Fill a square with the crop; its true width and height (the longer is 1) if only the bytes tell them.

        Raises:
            StoreError: the bytes are no such crop.
        """
        ...


@dataclass(frozen=True)
class RunSource:
    """The crops of a run, or those that a compacted dataset's objects name."""

    store: RunStore
    stored_px: int
    encoding: str

    @staticmethod
    def of(store: RunStore) -> RunSource:
        crops = store.read_run().config["crops"]
        return RunSource(source_run(store), int(crops["size_px"]), str(crops["encoding"]))

    @property
    def url(self) -> str:
        return self.store.url

    def read(self, place: str, object_id: NDArray[np.int32]) -> Sequence[Encoded]:
        try:
            return read_encoded_crops(self.store, place, object_id)
        except (StoreUnreachable, StoreAccessDenied):
            raise
        except StoreError as error:
            return [error] * len(object_id)

    def decode(self, encoded: bytes, out: Image) -> tuple[float, float] | None:
        if self.encoding == "jpeg":
            crop = decode_crop_above(
                encoded, height=self.stored_px, width=self.stored_px, least_px=out.shape[0]
            )
        else:
            crop = crop_decoder(self.encoding, height=self.stored_px, width=self.stored_px)(encoded)
        _resize_into(crop, out)
        return None


@dataclass(frozen=True)
class FolderSource:
    """The images below a folder of classes; a unit is one image."""

    folder: Path
    stored_px: int | None = None

    @property
    def url(self) -> str:
        return str(self.folder)

    def read(self, place: str, object_id: NDArray[np.int32]) -> Sequence[Encoded]:
        try:
            content = (self.folder / place).read_bytes()
        except OSError as error:
            return [StoreError(f"{self.folder / place} cannot be read ({error})")] * len(object_id)
        return [content] * len(object_id)

    def decode(self, encoded: bytes, out: Image) -> tuple[float, float] | None:
        try:
            image = read_image(encoded, name="an image")
        except UsageError as error:
            raise StoreError(str(error)) from None
        out[:] = resize_to(image, size_px=out.shape[0])
        height, width = image.shape[:2]
        return width / max(width, height), height / max(width, height)

    def images(self) -> list[str]:
        """`<class>/<image>` of every image, in order.

        Raises:
            UsageError: there are none.
        """
        found = sorted(path for path in self.folder.glob("*/*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise UsageError(
                f"{self.folder} is neither a run nor a compacted dataset, and holds no <class>/<image> files; give "
                "a run directory or a folder of classes"
            )
        return [f"{path.parent.name}/{path.name}" for path in found]


def _resize_into(crop: Image, out: Image) -> None:
    side = out.shape[0]
    if crop.shape[0] == side:
        out[:] = crop
    else:
        # Linear interpolation skips no pixel while it halves at most, and takes a third of the time.
        how = cv2.INTER_AREA if crop.shape[0] >= 2 * side else cv2.INTER_LINEAR
        cv2.resize(crop, (side, side), dst=out, interpolation=how)
