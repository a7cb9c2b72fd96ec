"""Crops and embeddings of one slide in Zarr."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from support.run_fixtures import CROPS, some_crops
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec

from fossilray.core.config import CropsConfig
from fossilray.core.errors import StoreError
from fossilray.core.records import ArrayFiles
from fossilray.store import RunStore
from fossilray.store.arrays.crops import read_crops
from fossilray.store.arrays.embeddings import CHUNK_ROWS, chunk_size, decode_embeddings, read_embeddings
from fossilray.store.arrays.group import ArrayWriter, open_array_group
from fossilray.store.arrays.jpeg_codec import JpegCodec, decode_crop, encode_crop
from fossilray.store.arrays.sharding import SHARD_ROWS, index_size, pack_shard, read_index
from fossilray_jpeg import DamagedJpeg

SLIDE, ATTEMPT = "A17", "0011223344556677"
LOSSLESS = CropsConfig(size_px=16, encoding="lossless")


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore.open(str(tmp_path / "run"))


def write(
    store: RunStore,
    crops: np.ndarray,
    embeddings: np.ndarray | None,
    *,
    config: CropsConfig = CROPS,
    rows_at_a_time: int = SHARD_ROWS,
) -> ArrayFiles:
    writer = ArrayWriter(
        store,
        SLIDE,
        ATTEMPT,
        count=len(crops),
        crops=config,
        dimension=None if embeddings is None else embeddings.shape[1],
        backbone="vit_tiny",
    )
    for first in range(0, len(crops), rows_at_a_time):
        rows = slice(first, first + rows_at_a_time)
        writer.write(first, crops[rows], None if embeddings is None else embeddings[rows])
    return writer.finish()


def some_vectors(count: int, dimension: int = 8) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(count, dimension)).astype(np.float16)


@pytest.mark.parametrize("count", [1, SHARD_ROWS, SHARD_ROWS + 5])
def test_what_was_written_comes_back_in_row_order(store, count):
    crops, vectors = some_crops(count), some_vectors(count)
    files = write(store, crops, vectors, config=LOSSLESS)
    group = open_array_group(store, files.path)
    assert np.array_equal(group["crops"][:], crops)
    assert np.array_equal(group["embeddings"][:], vectors)
    assert group["embeddings"].dtype == np.float16


def test_jpeg_crops_read_through_zarr_as_each_was_encoded(store):
    crops = some_crops(SHARD_ROWS + 3)
    files = write(store, crops, None)
    array = open_array_group(store, files.path)["crops"]
    for row in (0, 17, SHARD_ROWS - 1, SHARD_ROWS, SHARD_ROWS + 2):
        expected = decode_crop(encode_crop(crops[row], quality=90), height=16, width=16)
        assert np.array_equal(array[row], expected)


@pytest.mark.parametrize("config", [CROPS, LOSSLESS], ids=["jpeg", "lossless"])
def test_shards_are_byte_for_byte_what_zarr_itself_writes(store, tmp_path, config):
    crops, vectors = some_crops(SHARD_ROWS + 7), some_vectors(SHARD_ROWS + 7)
    files = write(store, crops, vectors, config=config)
    jpeg = config.encoding == "jpeg"
    group = zarr.create_group(tmp_path / "by_zarr.zarr")
    array = group.create_array(
        "crops",
        shape=crops.shape,
        dtype="uint8",
        chunks=(1, 16, 16, 3),
        shards=(SHARD_ROWS, 16, 16, 3),
        filters=None,
        serializer=JpegCodec(quality=90) if jpeg else BytesCodec(),
        compressors=None if jpeg else ZstdCodec(level=3),
    )
    array[:] = crops
    array = group.create_array(
        "embeddings",
        shape=vectors.shape,
        dtype="float16",
        chunks=(CHUNK_ROWS, 8),
        shards=(SHARD_ROWS, 8),
        compressors=Crc32cCodec(),
    )
    array[:] = vectors
    shards = [name for name in files.bytes if "/c/" in name]
    assert len(shards) == 4
    for name in shards:
        ours = Path(store.root, files.path, name).read_bytes()
        assert ours == (tmp_path / "by_zarr.zarr" / name).read_bytes(), name


@pytest.mark.parametrize("rows_at_a_time", [64, 700, 3 * SHARD_ROWS])
def test_batches_do_not_change_a_byte(store, tmp_path, rows_at_a_time):
    crops, vectors = some_crops(2 * SHARD_ROWS + 100), some_vectors(2 * SHARD_ROWS + 100)
    other = RunStore.open(str(tmp_path / "other"))
    shard_by_shard = write(store, crops, vectors)
    assert write(other, crops, vectors, rows_at_a_time=rows_at_a_time) == shard_by_shard


def test_crops_encoded_by_other_threads_are_the_same_rows(store, tmp_path):
    crops, vectors = some_crops(SHARD_ROWS + 100), some_vectors(SHARD_ROWS + 100)
    other = RunStore.open(str(tmp_path / "other"))
    writer = ArrayWriter(
        other, SLIDE, ATTEMPT, count=len(crops), crops=CROPS, dimension=8, backbone="vit_tiny"
    )
    with ThreadPoolExecutor(4) as pool:
        parts = pool.map(writer.encode, np.array_split(crops, 9))
        writer.write_encoded(0, [crop for part in parts for crop in part], vectors)
    assert writer.finish() == write(store, crops, vectors)


def test_a_slide_without_objects_has_empty_arrays(store):
    files = write(store, some_crops(0), some_vectors(0))
    group = open_array_group(store, files.path)
    assert group["crops"].shape == (0, 16, 16, 3)
    assert group["embeddings"].shape == (0, 8)
    assert read_crops(store, files.path, []).shape == (0, 16, 16, 3)
    assert not [name for name in files.bytes if "/c/" in name]


def test_without_a_backbone_there_are_no_embeddings(store):
    group = open_array_group(store, write(store, some_crops(2), None).path)
    assert "embeddings" not in group
    assert group["crops"].shape == (2, 16, 16, 3)


def test_the_group_says_how_its_crops_were_made(store):
    attributes = dict(open_array_group(store, write(store, some_crops(1), None).path).attrs)
    assert attributes == {
        "crop_px": 16,
        "fit": "stretch",
        "encoding": "jpeg",
        "jpeg_quality": 90,
        "backbone": "vit_tiny",
    }


def test_every_file_is_listed_with_its_size_and_checksum(store):
    files = write(store, some_crops(10), some_vectors(10))
    root = Path(store.root, files.path)
    found = {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }
    assert files.path == f"arrays/{SLIDE}/{ATTEMPT}.zarr"
    assert files.bytes == {name: len(content) for name, content in found.items()}
    assert files.sha256 == {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}
    assert files.total_bytes == sum(files.bytes.values())


def test_rows_out_of_order_missing_or_misshapen_are_refused(store):
    writer = ArrayWriter(store, SLIDE, ATTEMPT, count=10, crops=CROPS, dimension=8)
    with pytest.raises(ValueError, match="0 was next"):
        writer.write(5, some_crops(5), some_vectors(5))
    with pytest.raises(ValueError, match="of 10"):
        writer.write(0, some_crops(11), some_vectors(11))
    with pytest.raises(ValueError, match="expected uint8 16 px"):
        writer.write(0, some_crops(5, size_px=8), some_vectors(5))
    with pytest.raises(ValueError, match="embeddings are None"):
        writer.write(0, some_crops(5), None)
    writer.write(0, some_crops(5), some_vectors(5))
    with pytest.raises(ValueError, match="5 rows were written, 10 announced"):
        writer.finish()
    assert not Path(store.root, "arrays").exists(), "an attempt that fails early leaves no half group"


@pytest.mark.parametrize("config", [CROPS, LOSSLESS], ids=["jpeg", "lossless"])
def test_crops_are_read_in_the_order_asked_for(store, config):
    files = write(store, some_crops(SHARD_ROWS + 9), None, config=config)
    rows = [SHARD_ROWS + 8, 3, 3, 0, SHARD_ROWS - 1]
    array = open_array_group(store, files.path)["crops"]
    assert np.array_equal(read_crops(store, files.path, rows), np.stack([array[row] for row in rows]))


@pytest.mark.parametrize("row", [-1, 4])
def test_a_crop_that_does_not_exist_is_named(store, row):
    files = write(store, some_crops(4), None)
    with pytest.raises(StoreError, match=f"holds crops 0 to 3, requested were {row}"):
        read_crops(store, files.path, [row])


def test_arrays_that_are_gone_are_named(store):
    with pytest.raises(StoreError, match=r"holds no arrays arrays/A17/0011.*verify"):
        open_array_group(store, f"arrays/{SLIDE}/{ATTEMPT}.zarr")


def test_a_damaged_shard_is_an_error_not_a_picture(store):
    files = write(store, some_crops(4), None)
    shard = Path(store.root, files.path, "crops/c/0/0/0/0")
    whole = shard.read_bytes()
    shard.write_bytes(b"\0" * 100 + whole[100:])
    with pytest.raises(StoreError, match="not a readable JPEG"):
        read_crops(store, files.path, [0])
    with pytest.raises(DamagedJpeg, match="not a readable JPEG"):
        open_array_group(store, files.path)["crops"][0]
    shard.write_bytes(whole[:-40])
    with pytest.raises(StoreError, match="fails its checksum"):
        read_crops(store, files.path, [0])


def test_an_index_gives_back_what_was_packed():
    chunks = [b"a", b"", b"ccc"]
    shard = pack_shard(chunks, slots=5)
    index = read_index(shard[-index_size(5) :], slots=5)
    assert [shard[int(start) : int(start + size)] for start, size in index[:3]] == chunks
    assert (index[3:] == 2**64 - 1).all()


def test_arrays_in_s3_read_like_those_on_a_disk(s3_run, tmp_path):  # noqa: F811
    url, config = s3_run
    crops, vectors = some_crops(SHARD_ROWS + 3), some_vectors(SHARD_ROWS + 3)
    remote, local = RunStore.open(url, config), RunStore.open(str(tmp_path))
    files = write(remote, crops, vectors)
    assert files == write(local, crops, vectors)
    group, expected = open_array_group(remote, files.path), open_array_group(local, files.path)
    assert np.array_equal(group["embeddings"][:], vectors)
    assert np.array_equal(group["crops"][SHARD_ROWS + 1], expected["crops"][SHARD_ROWS + 1])
    rows = [0, 5, SHARD_ROWS + 2]
    assert np.array_equal(read_crops(remote, files.path, rows), read_crops(local, files.path, rows))
    with pytest.raises(StoreError, match="holds no arrays"):
        open_array_group(remote, "arrays/A17/nothing.zarr")


@pytest.mark.parametrize("count", [1, CHUNK_ROWS, SHARD_ROWS + CHUNK_ROWS + 1])
def test_single_vectors_are_read_by_their_place(store, count):
    vectors = some_vectors(count)
    files = write(store, some_crops(count), vectors)
    last = (count - 1) // CHUNK_ROWS
    asked = [last, *range(last)]
    for number, found in zip(
        asked, read_embeddings(store.files, files.path, asked, dimension=8), strict=True
    ):
        expected = vectors[number * CHUNK_ROWS : (number + 1) * CHUNK_ROWS]
        assert np.array_equal(found[: len(expected)], expected)
        assert not found[len(expected) :].any()
    shard = store.files.read(f"{files.path}/embeddings/c/0/0")
    assert np.array_equal(
        decode_embeddings(shard, rows=min(count, SHARD_ROWS), dimension=8), vectors[:SHARD_ROWS]
    )


def test_damaged_vectors_are_told_not_given(store):
    count = 2 * CHUNK_ROWS
    files = write(store, some_crops(count), some_vectors(count))
    name = f"{files.path}/embeddings/c/0/0"
    sound = store.files.read(name)
    flipped = bytearray(sound)
    flipped[chunk_size(8) + 5] ^= 1
    store.files.write(name, bytes(flipped))
    read_embeddings(store.files, files.path, [0], dimension=8)
    for ask in (
        lambda: read_embeddings(store.files, files.path, [0, 1], dimension=8),
        lambda: decode_embeddings(bytes(flipped), rows=count, dimension=8),
        lambda: decode_embeddings(sound, rows=count, dimension=9),
        lambda: decode_embeddings(sound, rows=count + 1, dimension=8),
        lambda: decode_embeddings(sound[:-1], rows=count, dimension=8),
        lambda: decode_embeddings(b"", rows=count, dimension=8),
    ):
        with pytest.raises(StoreError, match="damaged"):
            ask()
    store.files.write(name, sound[: chunk_size(8) + 3])
    with pytest.raises(StoreError, match="damaged"):
        read_embeddings(store.files, files.path, [1], dimension=8)
