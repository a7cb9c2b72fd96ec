"""Queries of a search: images, a folder of images, or objects of the index, each as a vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.search.filters import describe_hits
from fossilray.analysis.search.search import Hit, SearchIndex
from fossilray.core.backbones import require_comparable
from fossilray.core.config import EmbedderConfig
from fossilray.core.errors import UsageError
from fossilray.core.images import IMAGE_SUFFIXES, read_image, resize_to
from fossilray.core.types import Image
from fossilray.core.vectors import unit_vectors
from fossilray.models.backbones.load import embedder_digest, load_embedder, weights_setting_of
from fossilray.store.query.connection import load_crops
from fossilray.store.query.vectors import VectorBackbone

MAX_QUERY_IMAGES = 10_000
_SHOWN_PX = 224


@dataclass(frozen=True)
class Queries:
    """The q queries of a search, with a picture of each."""

    names: tuple[str, ...]
    vectors: NDArray[np.float32]
    """(q, dimension) unit vectors."""
    pictures: tuple[Image, ...]
    shape: NDArray[np.float32]
    """(q, 2) width and height, the longer one 1."""
    self_hits: tuple[Hit | None, ...]
    """For a query that is an object of the index, this object, which `exclude_self` removes from the hits."""


def queries_from_images(
    index: SearchIndex, paths: Sequence[Path], *, names: Sequence[str], backbone: str
) -> Queries:
    """Embed images as the crops of the index were. Each should show one fossil, cropped tightly.

    Raises:
        UsageError: an image cannot be decoded, or the backbone is not that of the index.
        WeightsError: the weights of the backbone cannot be loaded.
    """
    config = EmbedderConfig(weights=weights_setting_of(backbone))
    (digest,) = embedder_digest(config).values()
    require_comparable(
        VectorBackbone.of(index.record.backbone),
        VectorBackbone(backbone, digest, 0),
        of_ours="the index holds vectors of",
        of_theirs=f"those of --backbone {backbone}",
        remedy="give --backbone the file that the runs were made with",
    )
    images = [read_image(path, name=str(path)) for path in paths]
    size_px, fit = int(index.record.crops["size_px"]), str(index.record.crops["fit"])
    crops = np.stack(
        [resize_to(image, size_px=size_px, fit=fit, pad_rgb=_background(image)) for image in images]
    )
    embedder = load_embedder(config, device="cpu")
    assert embedder is not None, "the configuration names weights"
    vectors = unit_vectors(embedder.embed(crops).astype(np.float32), undefined=np.nan)
    undefined = [str(path) for path, vector in zip(paths, vectors, strict=True) if np.isnan(vector[0])]
    if undefined:
        raise UsageError(
            f"the embedding of {undefined[0]} is zero, so it has no similarity to objects; give another image"
        )
    sides = np.array([image.shape[1::-1] for image in images], np.float32)
    return Queries(
        names=tuple(names),
        vectors=vectors,
        pictures=tuple(resize_to(image, size_px=_SHOWN_PX) for image in images),
        shape=sides / sides.max(axis=1, keepdims=True),
        self_hits=(None,) * len(paths),
    )


def images_below(folder: Path) -> list[Path]:
    """Return the images below a folder, in the order of paths.

    Raises:
        UsageError: there are no images, or more than MAX_QUERY_IMAGES.
    """
    if not folder.is_dir():
        raise UsageError(
            f"--crops {folder} is not a folder; give a folder of images, or one image as --image"
        )
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise UsageError(f"{folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    if len(paths) > MAX_QUERY_IMAGES:
        raise UsageError(
            f"{folder} holds {len(paths):,} images, more than the {MAX_QUERY_IMAGES:,} of one search; divide the folder"
        )
    return paths


def queries_from_objects(index: SearchIndex, objects: Sequence[Hit]) -> Queries:
    """Return objects of the index as queries.

    Raises:
        UsageError: an object has no embedding, because its pixels could not be read.
    """
    vectors = index.vectors(objects)
    for hit, vector in zip(objects, vectors, strict=True):
        if np.isnan(vector[0]):
            raise UsageError(
                f"object {hit.object_id} of {hit.slide} has no embedding, because its pixels could not be read; give "
                "another object"
            )
    table = describe_hits(index, [[hit] for hit in objects], [""] * len(objects))
    pictures = []
    for row, hit in enumerate(objects):
        pictures.append(load_crops(index.source(hit.slide).store, table.slice(row, 1))[0])
    sides = np.stack([table["width_um"].to_numpy(), table["height_um"].to_numpy()], axis=1)
    return Queries(
        names=tuple(f"{hit.slide.slide_id}:{hit.object_id}" for hit in objects),
        vectors=vectors,
        pictures=tuple(pictures),
        shape=(sides / np.maximum(sides.max(axis=1, keepdims=True), 1e-6)).astype(np.float32),
        self_hits=tuple(objects),
    )


def exclude_self(queries: Queries, hits: Sequence[Sequence[Hit]], *, count: int) -> list[list[Hit]]:
    """Return at most `count` hits of each query, without the query itself."""
    return [
        [
            hit
            for hit in of_query
            if self_hit is None or (hit.slide, hit.object_id) != (self_hit.slide, self_hit.object_id)
        ][:count]
        for of_query, self_hit in zip(hits, queries.self_hits, strict=True)
    ]


def _background(image: Image) -> NDArray[np.float32]:
    """Return the background colour at the border of an image, with which a letterboxed crop is padded."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    return np.quantile(border.astype(np.float32), 0.6, axis=0).astype(np.float32)
