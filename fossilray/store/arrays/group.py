"""A slide's crops and embeddings as a Zarr v3 group that any Zarr reads, written shard by shard.

crops: (n, S, S, 3) uint8, one JPEG (or one zstd frame) per crop inside shards of 2,048.
embeddings: (n, d) float16, chunks of 16 rows inside shards of 2,048; absent where only crops were requested.
Row i of both is the object whose object_id is i.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import zarr
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from zarr.abc.codec import ArrayBytesCodec
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from fossilray.core.config import CropsConfig
from fossilray.core.errors import StoreError
from fossilray.core.records import ArrayFiles
from fossilray.core.types import Image
from fossilray.store.arrays.array_layout import read_layout
from fossilray.store.arrays.embeddings import CHUNK_ROWS, encode_embeddings
from fossilray.store.arrays.jpeg_codec import JpegCodec, decode_crop, encode_crop
from fossilray.store.arrays.sharding import SHARD_ROWS, pack_shard
from fossilray.store.files.local import LocalFiles
from fossilray.store.run.layout import arrays_path
from fossilray.store.run.run_store import RunStore

ZSTD_LEVEL = 3


class ArrayWriter:
    """Writes one attempt's arrays: rows in order, every shard once and whole, metadata last.

    Any number of threads may encode at once, one at a time may write.
    """

    def __init__(
        self,
        store: RunStore,
        slide_id: str,
        attempt: str,
        *,
        count: int,
        crops: CropsConfig,
        dimension: int | None,
        backbone: str | None = None,
    ) -> None:
        self._store = store
        self._path = arrays_path(slide_id, attempt)
        self._count = count
        self._crops = crops
        self._dimension = dimension
        self._backbone = backbone
        self._encode_one = _crop_encoder(crops)
        self._rows = 0
        self._encoded: list[bytes] = []
        self._vectors: list[NDArray[np.float16]] = []
        self._bytes: dict[str, int] = {}
        self._sha256: dict[str, str] = {}

    def write(self, first_row: int, crops: NDArray[np.uint8], embeddings: NDArray[np.float16] | None) -> None:
        """Encode and add rows first_row, first_row + 1, … in order, any number at a time; a full shard goes out.

        crops: (k, S, S, 3); embeddings: (k, d), or None if and only if the arrays have none.

        Raises:
            ValueError: rows out of order or too many, or of another shape than was announced.
            StoreError: the store refuses a file.
        """
        self.write_encoded(first_row, self.encode(crops), embeddings)

    def encode(self, crops: NDArray[np.uint8]) -> list[bytes]:
        """Return what the arrays hold of each of the crops (k, S, S, 3).

        Raises:
            ValueError: crops of another shape than was announced.
        """
        side = self._crops.size_px
        if crops.dtype != np.uint8 or crops.shape[1:] != (side, side, 3):
            raise ValueError(f"{self._path}: crops are {crops.dtype} {crops.shape}, expected uint8 {side} px")
        return [self._encode_one(crop) for crop in crops]

    def write_encoded(
        self, first_row: int, crops: Sequence[bytes], embeddings: NDArray[np.float16] | None
    ) -> None:
        """Write encoded crops, which `encode` returned, as `write` does."""
        self._check(first_row, len(crops), embeddings)
        for begin, end in _split_at_shards(self._rows, len(crops)):
            self._encoded += crops[begin:end]
            if embeddings is not None:
                self._vectors.append(np.array(embeddings[begin:end], dtype="<f2"))
            self._rows += end - begin
            if self._rows % SHARD_ROWS == 0:
                self._write_shard()

    def finish(self) -> ArrayFiles:
        """Write what is left and the metadata; what a commit needs to know.

        Raises:
            ValueError: fewer rows were written than announced.
            StoreError: the store refuses a file.
        """
        if self._rows != self._count:
            raise ValueError(f"{self._path}: {self._rows} rows were written, {self._count} announced")
        if self._encoded:
            self._write_shard()
        for name, content in sorted(self._metadata().items()):
            self._put(name, content)
        return ArrayFiles(self._path, dict(self._bytes), dict(self._sha256))

    def _check(self, first_row: int, count: int, embeddings: NDArray[np.float16] | None) -> None:
        if first_row != self._rows or first_row + count > self._count:
            raise ValueError(
                f"{self._path}: rows {first_row} to {first_row + count} of {self._count} came when "
                f"{self._rows} was next"
            )
        expected = None if self._dimension is None else (count, self._dimension)
        shape = None if embeddings is None else embeddings.shape
        if shape != expected:
            raise ValueError(f"{self._path}: embeddings are {shape}, expected {expected}")

    def _write_shard(self) -> None:
        shard = (self._rows - 1) // SHARD_ROWS
        self._put(f"crops/c/{shard}/0/0/0", pack_shard(self._encoded, slots=SHARD_ROWS))
        self._encoded = []
        if self._dimension is not None:
            self._put(f"embeddings/c/{shard}/0", encode_embeddings(np.concatenate(self._vectors)))
            self._vectors = []

    def _put(self, name: str, content: bytes) -> None:
        self._store.files.write(f"{self._path}/{name}", content)
        self._bytes[name] = len(content)
        self._sha256[name] = hashlib.sha256(content).hexdigest()

    def _metadata(self) -> dict[str, bytes]:
        """The zarr.json files, as Zarr itself writes them."""
        side = self._crops.size_px
        kept: dict[str, Buffer] = {}
        group = zarr.create_group(
            MemoryStore(kept),
            attributes={
                "crop_px": side,
                "fit": self._crops.fit,
                "encoding": self._crops.encoding,
                "jpeg_quality": self._crops.jpeg_quality if self._crops.encoding == "jpeg" else None,
                "backbone": self._backbone,
            },
        )
        serializer, compressor = _crop_codecs(self._crops)
        group.create_array(
            "crops",
            shape=(self._count, side, side, 3),
            dtype="uint8",
            chunks=(1, side, side, 3),
            shards=(SHARD_ROWS, side, side, 3),
            filters=None,
            serializer=serializer,
            compressors=compressor,
            dimension_names=("object_id", "y", "x", "rgb"),
        )
        if self._dimension is not None:
            group.create_array(
                "embeddings",
                shape=(self._count, self._dimension),
                dtype="float16",
                chunks=(CHUNK_ROWS, self._dimension),
                shards=(SHARD_ROWS, self._dimension),
                filters=None,
                serializer=BytesCodec(endian="little"),
                compressors=Crc32cCodec(),
                dimension_names=("object_id", "feature"),
            )
        return {name: content.to_bytes() for name, content in kept.items()}


def open_array_group(store: RunStore, path: str) -> zarr.Group:
    """The Zarr group of one slide, to read from; `path` is the `arrays` column of its objects.

    Raises:
        StoreError: the group is missing, its metadata are damaged, or the path is not that of a group.
    """
    read_layout(store, path)
    return zarr.open_group(_zarr_store(store, path), mode="r", zarr_format=3)


def _split_at_shards(rows: int, more: int) -> Iterator[tuple[int, int]]:
    """Cut `more` new rows after `rows` old ones where shards end: (begin, end) within the new ones."""
    begin = 0
    while begin < more:
        end = min(more, begin + SHARD_ROWS - (rows + begin) % SHARD_ROWS)
        yield begin, end
        begin = end


def _crop_encoder(crops: CropsConfig) -> Callable[[Image], bytes]:
    if crops.encoding == "jpeg":
        return lambda crop: encode_crop(crop, quality=crops.jpeg_quality)
    zstd = Zstd(level=ZSTD_LEVEL)
    return lambda crop: bytes(zstd.encode(np.ascontiguousarray(crop)))


def _crop_codecs(crops: CropsConfig) -> tuple[ArrayBytesCodec, ZstdCodec | None]:
    if crops.encoding == "jpeg":
        return JpegCodec(quality=crops.jpeg_quality), None
    return BytesCodec(), ZstdCodec(level=ZSTD_LEVEL)


def crop_decoder(encoding: str, *, height: int, width: int) -> Callable[[bytes], Image]:
    """Return what turns a stored crop into pixels (height, width, 3) and raises StoreError where it cannot."""
    if encoding == "jpeg":
        return lambda encoded: decode_crop(encoded, height=height, width=width)
    return lambda encoded: _decode_lossless(encoded, (height, width, 3))


def _decode_lossless(encoded: bytes, shape: tuple[int, int, int]) -> Image:
    try:
        return np.frombuffer(Zstd(level=ZSTD_LEVEL).decode(encoded), np.uint8).reshape(shape)
    except (RuntimeError, ValueError) as error:  # numcodecs raises RuntimeError for what zstd refuses
        raise StoreError(
            f"a stored crop of {len(encoded)} bytes is not a readable zstd frame ({error}); its array file is "
            "damaged: compare it with the sha256 in the footer of the slide's objects file"
        ) from None


def _zarr_store(store: RunStore, path: str) -> LocalStore | FsspecStore:
    if isinstance(store.files, LocalFiles):
        return LocalStore(f"{store.root}/{path}", read_only=True)
    # Zarr runs an event loop of its own and wants a filesystem that lives in it.
    return FsspecStore.from_url(
        f"{store.url}/{path}", storage_options=dict(store.files.options), read_only=True
    )
