"""What is asked about: images, a folder of them, or an object of the archive; each as a vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.search.filters import describe_hits
from fossilray.analysis.search.quantizer import unit
from fossilray.analysis.search.search import Hit, SearchIndex
from fossilray.core.config import EmbedderConfig
from fossilray.core.errors import UsageError
from fossilray.core.images import IMAGE_SUFFIXES, read_image, resize_to
from fossilray.core.types import Image
from fossilray.models.backbones.load import embedder_digest, load_embedder, weights_setting_of
from fossilray.store.query.connection import load_crops
from fossilray.store.query.vectors import VectorBackbone

MOST_IMAGES = 10_000
_SHOWN_PX = 224


@dataclass(frozen=True)
class Queries:
    """Queries by name, with a picture of each."""

    names: tuple[str, ...]
    vectors: NDArray[np.float32]
    """(q, d) of length 1."""
    pictures: tuple[Image, ...]
    shape: NDArray[np.float32]
    """(q, 2) width and height, the longer one 1."""
    itself: tuple[Hit | None, ...]
    """The object that is asked about, which is no answer."""


def queries_from_images(
    index: SearchIndex, paths: Sequence[Path], *, names: Sequence[str], backbone: str
) -> Queries:
    """Images, each of one fossil cut as tightly as crops of a slide are, described as the index's crops were.

    Raises:
        UsageError: an image cannot be decoded, or the backbone is not the one that made the index's vectors.
        WeightsError: its weights cannot be had.
    """
    config = EmbedderConfig(weights=weights_setting_of(backbone))
    (digest,) = embedder_digest(config).values()
    made_by = index.record.backbone
    if digest != made_by["sha256"]:
        raise UsageError(
            f"the index is of vectors by {VectorBackbone.of(made_by)}, and --backbone {backbone} is another "
            f"({digest[:12]}); vectors of two backbones cannot be compared: give --backbone the file that the runs "
            "were made with"
        )
    images = [read_image(path, name=str(path)) for path in paths]
    size_px, fit = int(index.record.crops["size_px"]), str(index.record.crops["fit"])
    crops = np.stack([resize_to(image, size_px=size_px, fit=fit, pad_rgb=_field(image)) for image in images])
    embedder = load_embedder(config, device="cpu")
    assert embedder is not None, "there are weights"
    vectors = unit(embedder.embed(crops))
    without = [str(path) for path, vector in zip(paths, vectors, strict=True) if np.isnan(vector[0])]
    if without:
        raise UsageError(
            f"{without[0]} gives a vector without direction; it shows nothing that can be compared"
        )
    sides = np.array([image.shape[1::-1] for image in images], np.float32)
    return Queries(
        names=tuple(names),
        vectors=vectors,
        pictures=tuple(resize_to(image, size_px=_SHOWN_PX) for image in images),
        shape=sides / sides.max(axis=1, keepdims=True),
        itself=(None,) * len(paths),
    )


def images_below(folder: Path) -> list[Path]:
    """Every image in a folder and the folders in it, by path.

    Raises:
        UsageError: there is none, or too many for one question.
    """
    if not folder.is_dir():
        raise UsageError(f"--crops {folder} is no folder; give a folder of images, or one image as --image")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise UsageError(f"{folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    if len(found) > MOST_IMAGES:
        raise UsageError(
            f"{folder} holds {len(found):,} images, more than the {MOST_IMAGES:,} that may be asked at once"
        )
    return found


def queries_from_objects(index: SearchIndex, objects: Sequence[Hit]) -> Queries:
    """Objects of the index.

    Raises:
        UsageError: one has no vector, for its pixels could not be read.
    """
    vectors = index.vectors(objects)
    for one, vector in zip(objects, vectors, strict=True):
        if np.isnan(vector[0]):
            raise UsageError(
                f"object {one.object_id} of {one.slide} has no vector with a direction; ask about another"
            )
    table = describe_hits(index, [[one] for one in objects], [""] * len(objects))
    pictures = []
    for row, one in enumerate(objects):
        pictures.append(load_crops(index.source(one.slide).store, table.slice(row, 1))[0])
    sides = np.stack([table["width_um"].to_numpy(), table["height_um"].to_numpy()], axis=1)
    return Queries(
        names=tuple(f"{one.slide.slide_id}:{one.object_id}" for one in objects),
        vectors=vectors,
        pictures=tuple(pictures),
        shape=(sides / np.maximum(sides.max(axis=1, keepdims=True), 1e-6)).astype(np.float32),
        itself=tuple(objects),
    )


def exclude_self(questions: Queries, hits: Sequence[Sequence[Hit]], *, count: int) -> list[list[Hit]]:
    """The hits of each question without the object that is asked about, at most `count`."""
    return [
        [
            one
            for one in found
            if itself is None or (one.slide, one.object_id) != (itself.slide, itself.object_id)
        ][:count]
        for found, itself in zip(hits, questions.itself, strict=True)
    ]


def _field(image: Image) -> NDArray[np.float32]:
    """The colour of the clear field round a fossil, to pad a letterboxed crop with."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    return np.quantile(border.astype(np.float32), 0.6, axis=0).astype(np.float32)
