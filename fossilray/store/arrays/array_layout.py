"""Metadata of a slide's arrays, read and checked against bounds."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fossilray.core.errors import StoreError
from fossilray.core.formats import FileRole, parse_json
from fossilray.store.run.layout import split_arrays_path
from fossilray.store.run.roles import array_metadata

if TYPE_CHECKING:
    from fossilray.store.run.run_store import RunStore

GROUP = "zarr.json"
CROPS = "crops/zarr.json"
EMBEDDINGS = "embeddings/zarr.json"
ENCODINGS = ("jpeg", "lossless")

MOST_OBJECTS = 2**31 - 1
"""object_id is an int32."""

MOST_CROP_PX = 1024
"""The largest `crops.size_px` that a configuration may set."""

MOST_DIMENSIONS = 65_536
"""Numbers of a vector; backbones have some hundreds to some thousands."""


@dataclass(frozen=True)
class ArraysLayout:
    """Shapes of one slide's arrays."""

    encoding: str
    """One of ENCODINGS."""
    rows: int
    height: int
    width: int
    embeddings: tuple[int, int] | None
    """Rows and dimension; None where there are none."""


def read_layout(store: RunStore, path: str) -> ArraysLayout:
    """The layout of one slide's arrays; `path` is the `arrays` column of its objects.

    Raises:
        StoreError: the group is missing, its metadata are damaged, or the path is not that of a group.
    """
    split_arrays_path(path)
    metadata: dict[str, bytes] = {}
    try:
        for name in (GROUP, CROPS):
            metadata[name] = store.files.read(f"{path}/{name}")
    except FileNotFoundError:
        raise StoreError(
            f"{store.url} holds no arrays {path}, or only a part of them, although its objects file names them; see "
            "what else is damaged with `fossilray verify`"
        ) from None
    with suppress(FileNotFoundError):
        metadata[EMBEDDINGS] = store.files.read(f"{path}/{EMBEDDINGS}")
    return parse_layout(metadata, url=f"{store.url}/{path}")


def parse_layout(metadata: Mapping[str, bytes], *, url: str) -> ArraysLayout:
    """The layout that a group's metadata files state; those of crops must be there.

    Raises:
        DamagedFile: they are not what fossilray writes.
    """
    group = _parse(metadata, GROUP, url)
    encoding = (group.get("attributes") or {}).get("encoding")
    if encoding not in ENCODINGS:
        raise _role(GROUP, url).damaged(f"it states crops encoded as {encoding!r:.40}")
    rows, height, width, _ = _shape(
        metadata, CROPS, url, kind="uint8", most=(MOST_OBJECTS, MOST_CROP_PX, MOST_CROP_PX, 3)
    )
    embeddings = None
    if EMBEDDINGS in metadata:
        most = (MOST_OBJECTS, MOST_DIMENSIONS)
        described, dimension = _shape(metadata, EMBEDDINGS, url, kind="float16", most=most)
        embeddings = (described, dimension)
    return ArraysLayout(str(encoding), rows, height, width, embeddings)


def _shape(
    metadata: Mapping[str, bytes], name: str, url: str, *, kind: str, most: tuple[int, ...]
) -> list[int]:
    """The shape of an array; each side at most so large, the first one 0 or more, the others 1 or more."""
    array = _parse(metadata, name, url)
    role = _role(name, url)
    if array.get("data_type") != kind:
        raise role.damaged(f"it states numbers of the type {array.get('data_type')!r:.40}, expected {kind}")
    shape = array.get("shape")
    if not isinstance(shape, list) or len(shape) != len(most) or not all(type(side) is int for side in shape):
        raise role.damaged(f"it states the shape {shape!r:.80}, expected {len(most)} whole numbers")
    if not 0 <= shape[0] <= most[0] or any(
        not 1 <= side <= top for side, top in zip(shape[1:], most[1:], strict=True)
    ):
        raise role.damaged(f"it states the shape {shape}, more than {list(most)} or less than nothing")
    return shape


def _parse(metadata: Mapping[str, bytes], name: str, url: str) -> dict[str, Any]:
    role = _role(name, url)
    if name not in metadata:
        raise role.damaged("it is gone")
    fields = parse_json(metadata[name], role)
    if not isinstance(fields, dict) or not isinstance(fields.get("attributes") or {}, dict):
        raise role.damaged("it is no metadata of Zarr")
    return fields


def _role(name: str, url: str) -> FileRole:
    return array_metadata(f"{url}/{name}")
