"""Damage to plant in a run that small_run wrote: one function for each kind, and what they are made of."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from support.run_fixtures import commit
from support.small_run import COUNTS, CROP_PX, WELL, commit_slide

from fossilray.core.config import CropsConfig
from fossilray.core.records import ArrayFiles
from fossilray.store import RunStore
from fossilray.store.arrays.group import ArrayWriter
from fossilray.store.arrays.jpeg_codec import encode_crop
from fossilray.store.arrays.sharding import SHARD_ROWS, pack_shard
from fossilray.store.run.objects_file import Footer, decode_objects, encode_objects

SLIDE = "a-2030"
OTHER = "b-2050"

# The objects file


def truncate_objects(store: RunStore) -> None:
    path = objects(store, SLIDE)
    store.files.write(path, store.files.read(path)[:-5])


def empty_objects(store: RunStore) -> None:
    store.files.write(objects(store, SLIDE), b"")


def flip_a_page(store: RunStore) -> None:
    flip(store, objects(store, SLIDE), 40)


def forge_digest(store: RunStore) -> None:
    forge(store, SLIDE, run_digest="0" * 64)


def forge_count(store: RunStore) -> None:
    forge(store, SLIDE, footer={"objects": 39})


def forge_well(store: RunStore) -> None:
    forge(store, SLIDE, footer={"well": "another"})


def rename_slide(store: RunStore) -> None:
    store.files.write(objects(store, "e-broken", like=SLIDE), store.files.read(objects(store, SLIDE)))


def commit_twice(store: RunStore) -> None:
    content = store.files.read(objects(store, SLIDE))
    store.files.write(f"objects/well=zzz/{SLIDE}.parquet", content)


def commit_a_stranger(store: RunStore) -> None:
    commit(RunStore(store.files), "stranger", arrays=True)


def lay_a_stray_file(store: RunStore) -> None:
    store.files.write("objects/notes.txt", b"do not touch")


def lose_a_commit(store: RunStore) -> None:
    store.files.delete(objects(store, SLIDE))


def swap_boxes(store: RunStore) -> None:
    forge(store, SLIDE, columns={"x_min": "x_max", "x_max": "x_min"})


def shuffle_rows(store: RunStore) -> None:
    forge(store, SLIDE, take=[1, 0, *range(2, 40)])


def lose_measures(store: RunStore) -> None:
    forge(store, SLIDE, footer={"crops_failed": 3})


def leave_the_slide(store: RunStore) -> None:
    forge(store, SLIDE, footer={"width": 5000})


def misname_arrays(store: RunStore) -> None:
    forge(store, SLIDE, arrays=f"arrays/{OTHER}/0123456789abcdef.zarr")


# Arrays


def delete_a_shard(store: RunStore) -> None:
    store.files.delete(shard(store, SLIDE))


def delete_all_arrays(store: RunStore) -> None:
    store.files.delete(group(store, SLIDE))


def truncate_a_shard(store: RunStore) -> None:
    store.files.write(shard(store, SLIDE), store.files.read(shard(store, SLIDE))[:-9])


def flip_a_crop(store: RunStore) -> None:
    flip(store, shard(store, SLIDE), 100)


def flip_an_index(store: RunStore) -> None:
    flip(store, shard(store, SLIDE), -40)


def flip_embeddings(store: RunStore) -> None:
    flip(store, f"{group(store, SLIDE)}/embeddings/c/0/0", 30)


def flip_metadata(store: RunStore) -> None:
    path = f"{group(store, SLIDE)}/crops/zarr.json"
    store.files.write(path, store.files.read(path).replace(b"40", b"41"))


def lay_an_extra_file(store: RunStore) -> None:
    store.files.write(f"{group(store, SLIDE)}/crops/c/7/0/0/0", b"who am I")


def swap_arrays(store: RunStore) -> None:
    root, mine, others = Path(store.root), group(store, SLIDE), group(store, OTHER)
    (root / mine).rename(root / "aside")
    (root / others).rename(root / mine)
    (root / "aside").rename(root / others)


def leave_out_a_crop(store: RunStore) -> None:
    """A shard that was written without its last crop: every checksum holds."""
    jpeg = encoded_crop()
    rewrite(store, SLIDE, "crops/c/0/0/0/0", pack_shard([jpeg] * 39, slots=SHARD_ROWS))


def write_crops_of_another_size(store: RunStore) -> None:
    jpeg = encoded_crop(side=CROP_PX * 2)
    rewrite(store, SLIDE, "crops/c/0/0/0/0", pack_shard([jpeg] * 40, slots=SHARD_ROWS))


def write_infinite_embeddings(store: RunStore) -> None:
    rewrite_crops(store, SLIDE, embedding=np.inf)


def declare_fewer_crops(store: RunStore) -> None:
    path = "crops/zarr.json"
    rewrite(store, SLIDE, path, store.files.read(f"{group(store, SLIDE)}/{path}").replace(b"40", b"39"))


# Found by any look
SHALLOW: list[tuple[Callable[[RunStore], None], set[tuple[str, str]], str]] = [
    (truncate_objects, {(SLIDE, "footer")}, f"{SLIDE}.parquet"),
    (empty_objects, {(SLIDE, "footer")}, f"{SLIDE}.parquet"),
    (forge_digest, {(SLIDE, "other run")}, "other settings"),
    (forge_count, {(SLIDE, "rows"), (SLIDE, "shape")}, "holds 40 rows"),
    (forge_well, {(SLIDE, "misplaced")}, "of the well another"),
    (rename_slide, {("e-broken", "misplaced"), ("e-broken", "missing")}, f"is the slide {SLIDE}"),
    (commit_twice, {(SLIDE, "twice")}, "well=zzz"),
    (commit_a_stranger, {("stranger", "unknown")}, "catalog"),
    (lay_a_stray_file, {("", "stray")}, "objects/notes.txt"),
    (lose_a_commit, {(SLIDE, "lost")}, "start the same command again"),
    (misname_arrays, {(SLIDE, "misplaced"), (SLIDE, "missing")}, f"arrays/{OTHER}/"),
    (delete_a_shard, {(SLIDE, "missing")}, "crops/c/0/0/0/0"),
    (delete_all_arrays, {(SLIDE, "missing")}, "crops/zarr.json"),
    (truncate_a_shard, {(SLIDE, "size")}, "crops/c/0/0/0/0"),
    (flip_metadata, {(SLIDE, "checksum")}, "crops/zarr.json"),
    (lay_an_extra_file, {(SLIDE, "extra")}, "crops/c/7/0/0/0"),
    (swap_arrays, {(SLIDE, "size"), (OTHER, "size"), (SLIDE, "checksum"), (OTHER, "checksum")}, "crops"),
    (declare_fewer_crops, {(SLIDE, "shape")}, "declares 39 crops for 40 objects"),
]

# Found by a deep look alone
DEEP: list[tuple[Callable[[RunStore], None], set[tuple[str, str]], str]] = [
    (flip_a_page, {(SLIDE, "objects")}, f"{SLIDE}.parquet"),
    (swap_boxes, {(SLIDE, "objects")}, "a box without area in 40 rows"),
    (shuffle_rows, {(SLIDE, "objects")}, "an object_id that is not its index in 2 rows"),
    (lose_measures, {(SLIDE, "objects")}, "where 3 crops failed"),
    (leave_the_slide, {(SLIDE, "objects")}, "a box outside the slide"),
    (flip_an_index, {(SLIDE, "checksum"), (SLIDE, "crops")}, "crops/c/0/0/0/0"),
    (flip_embeddings, {(SLIDE, "checksum"), (SLIDE, "embeddings")}, "embeddings/c/0/0"),
    (leave_out_a_crop, {(SLIDE, "crops")}, "1 crops that cannot be decoded, the first of object 39"),
    (write_crops_of_another_size, {(SLIDE, "crops")}, "40 crops that cannot be decoded"),
    (write_infinite_embeddings, {(SLIDE, "embeddings")}, "40 embeddings that are not finite"),
]


# What they are made of


def objects(store: RunStore, slide_id: str, *, like: str | None = None) -> str:
    path = store.committed_files()[like or slide_id]
    return path if like is None else path.replace(like, slide_id)


def group(store: RunStore, slide_id: str) -> str:
    footer = store.footer(slide_id)
    assert footer is not None
    return footer.arrays.path


def shard(store: RunStore, slide_id: str, number: int = 0) -> str:
    return f"{group(store, slide_id)}/crops/c/{number}/0/0/0"


def flip(store: RunStore, path: str, place: int) -> None:
    content = bytearray(store.files.read(path))
    content[place] ^= 4
    store.files.write(path, bytes(content))


def half(store: RunStore, slide_id: str, attempt: str) -> None:
    """Arrays of an attempt that was cut off."""
    store.files.write(f"arrays/{slide_id}/{attempt}.zarr/crops/c/0/0/0/0", b"half")


def encoded_crop(side: int = CROP_PX) -> bytes:
    return encode_crop(np.full((side, side, 3), 99, np.uint8), quality=90)


def forge(
    store: RunStore,
    slide_id: str,
    *,
    footer: dict[str, object] | None = None,
    run_digest: str | None = None,
    arrays: str | None = None,
    columns: dict[str, str] | None = None,
    take: list[int] | None = None,
) -> None:
    """Write a slide's objects file anew with something in it that is not so."""
    path = objects(store, slide_id)
    content = store.files.read(path)
    old = store.footer(slide_id)
    assert old is not None
    table = decode_objects(content, name=path).replace_schema_metadata(None)
    for name, source in (columns or {}).items():
        column = decode_objects(content, name=path)[source]
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    if take is not None:
        table = table.take(pa.array(take))
    summary = replace(old.summary, **(footer or {}))  # type: ignore[arg-type]
    files = replace(old.arrays, path=arrays or old.arrays.path)
    new = Footer(summary, files, old.schema_version, run_digest or old.run_digest)
    store.files.write(path, _encode(table, new))
    store.rebuild_summaries()


def _encode(table: pa.Table, footer: Footer) -> bytes:
    """As the store does, without its refusal to write what contradicts itself."""
    sink = io.BytesIO()
    stated = {b"fossilray": json.dumps(asdict(footer)).encode()}
    pq.write_table(table.replace_schema_metadata(stated), sink)
    return sink.getvalue()


def rewrite(store: RunStore, slide_id: str, name: str, content: bytes) -> None:
    """Replace one array file and its size and checksum in the footer, as a faulty writer would have."""
    path = objects(store, slide_id)
    old = store.footer(slide_id)
    assert old is not None
    store.files.write(f"{old.arrays.path}/{name}", content)
    files = ArrayFiles(
        old.arrays.path,
        {**old.arrays.bytes, name: len(content)},
        {**old.arrays.sha256, name: hashlib.sha256(content).hexdigest()},
    )
    table = decode_objects(store.files.read(path), name=path).replace_schema_metadata(None)
    store.files.write(path, encode_objects(table, old.summary, files, run_digest=old.run_digest))


def rewrite_crops(
    store: RunStore, slide_id: str, *, encoding: str = "jpeg", embedding: float | None = None
) -> None:
    """Write a slide's arrays anew, under the same attempt."""
    old = store.footer(slide_id)
    assert old is not None
    count = old.summary.objects
    crops = CropsConfig(size_px=CROP_PX, encoding=encoding)  # type: ignore[arg-type]
    writer = ArrayWriter(
        store, slide_id, old.attempt, count=count, crops=crops, dimension=None if embedding is None else 12
    )
    vectors = None if embedding is None else np.full((count, 12), embedding, np.float16)
    writer.write(0, np.full((count, CROP_PX, CROP_PX, 3), 77, np.uint8), vectors)
    files = writer.finish()
    for name in files.bytes:
        rewrite(store, slide_id, name, store.files.read(f"{files.path}/{name}"))


def remake(store: RunStore, slide_id: str) -> None:
    """Process the slide again, as the next job would."""
    commit_slide(store, slide_id, count=COUNTS[slide_id], well=WELL, depth_m=2030.0, seed=0)
    store.rebuild_summaries()
