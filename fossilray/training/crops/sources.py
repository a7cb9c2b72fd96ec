"""Sources of crops: runs, compacted datasets, and folders of images by class."""

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

Encoded = bytes | StoreError
"""A crop as it is stored, or the error of reading it."""


class CropSource(Protocol):
    """A source of crops. Its units are slides, or single images."""

    @property
    def url(self) -> str: ...

    @property
    def stored_px(self) -> int | None:
        """Side of its crops; None if they differ."""
        ...

    def read(self, path: str, object_id: NDArray[np.int32]) -> Sequence[Encoded]:
        """Read encoded crops of the unit at `path`.

        Raises:
            StoreUnreachable: The store does not respond.
            StoreAccessDenied: The store denies access.
        """
        ...

    def decode(self, encoded: bytes, out: Image) -> tuple[float, float] | None:
        """Decode a crop into the square `out`.

        Returns:
            Original width and height, the longer one 1, if only the file has them; else None.

        Raises:
            StoreError: The crop cannot be decoded.
        """
        ...


@dataclass(frozen=True)
class RunSource:
    """Crops of a run, or of the runs that a compacted dataset refers to."""

    store: RunStore
    stored_px: int
    encoding: str

    @staticmethod
    def of(store: RunStore) -> RunSource:
        crops = store.read_run().config["crops"]
        return RunSource(store.source_run, int(crops["size_px"]), str(crops["encoding"]))

    @property
    def url(self) -> str:
        return self.store.url

    def read(self, path: str, object_id: NDArray[np.int32]) -> Sequence[Encoded]:
        try:
            return read_encoded_crops(self.store, path, object_id)
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
    """Images in a folder of `<class>/<image>`; a unit is one image."""

    folder: Path
    stored_px: int | None = None

    @property
    def url(self) -> str:
        return str(self.folder)

    def read(self, path: str, object_id: NDArray[np.int32]) -> Sequence[Encoded]:
        try:
            content = (self.folder / path).read_bytes()
        except OSError as error:
            return [StoreError(f"{self.folder / path} cannot be read ({error})")] * len(object_id)
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
        """Return `<class>/<image>` of every image, sorted.

        Raises:
            UsageError: There are no images.
        """
        paths = sorted(path for path in self.folder.glob("*/*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not paths:
            raise UsageError(
                f"{self.folder} is neither a run nor a compacted dataset, and contains no <class>/<image> files; give "
                "a run directory or a folder of classes"
            )
        return [f"{path.parent.name}/{path.name}" for path in paths]


def _resize_into(crop: Image, out: Image) -> None:
    side = out.shape[0]
    if crop.shape[0] == side:
        out[:] = crop
    else:
        # Down to half the size, linear interpolation uses every pixel and takes a third of the time.
        interpolation = cv2.INTER_AREA if crop.shape[0] >= 2 * side else cv2.INTER_LINEAR
        cv2.resize(crop, (side, side), dst=out, interpolation=interpolation)
