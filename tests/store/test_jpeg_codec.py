"""The Zarr codec of one crop."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from zarr.storage import MemoryStore

from fossilray.core.errors import StoreError
from fossilray.store.arrays.jpeg_codec import CODEC_NAME, JpegCodec, decode_crop, encode_crop

ROOT = Path(__file__).resolve().parents[2]


def smooth_image(seed: int, *, height: int, width: int) -> np.ndarray:
    """Colours that change slowly, as a focused crop's do."""
    few = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC))


def crops_array(store: MemoryStore | str, crops: np.ndarray, *, quality: int = 90) -> zarr.Array:
    group = zarr.create_group(store)
    array = group.create_array(
        "crops",
        shape=crops.shape,
        dtype=crops.dtype,
        chunks=(1, *crops.shape[1:]),
        shards=crops.shape,
        serializer=JpegCodec(quality=quality),
        compressors=None,
        filters=None,
    )
    array[:] = crops
    return array


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(48, 96),
    width=st.integers(48, 96),
    quality=st.integers(80, 100),
)
def test_a_smooth_crop_comes_back_within_four_grey_levels_rms(seed, height, width, quality):
    crop = smooth_image(seed, height=height, width=width)
    encoded = encode_crop(crop, quality=quality)
    back = decode_crop(encoded, height=height, width=width)
    assert back.shape == crop.shape
    assert back.dtype == np.uint8
    assert np.sqrt(np.mean((back.astype(float) - crop) ** 2)) < 4
    assert encode_crop(crop, quality=quality) == encoded


def test_a_stored_crop_is_a_jpeg_that_others_decode_alike():
    crop = smooth_image(1, height=64, width=80)
    encoded = encode_crop(crop, quality=90)
    with Image.open(BytesIO(encoded)) as other:
        assert other.format == "JPEG"
        seen = np.asarray(other.convert("RGB")).astype(int)
    assert np.abs(seen - decode_crop(encoded, height=64, width=80)).max() <= 2


def test_zarr_gives_one_crop_as_height_width_rgb():
    crops = np.stack([smooth_image(seed, height=32, width=32) for seed in range(5)])
    array = crops_array(MemoryStore(), crops)
    assert array[3].shape == (32, 32, 3)
    assert np.array_equal(array[3], decode_crop(encode_crop(crops[3], quality=90), height=32, width=32))
    assert np.sqrt(np.mean((array[:].astype(float) - crops) ** 2)) < 5


@pytest.mark.parametrize("damage", [b"", b"not a jpeg", "half"])
def test_damaged_bytes_are_a_clear_error(damage):
    encoded = encode_crop(smooth_image(2, height=64, width=64), quality=90)
    if damage == "half":
        damage = encoded[: len(encoded) // 2]
    with pytest.raises(StoreError, match="not a readable JPEG"):
        decode_crop(damage, height=64, width=64)


def test_a_crop_of_another_size_is_a_clear_error():
    encoded = encode_crop(smooth_image(2, height=64, width=64), quality=90)
    with pytest.raises(StoreError, match=r"64 x 64 px.*32 x 32"):
        decode_crop(encoded, height=32, width=32)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((4, 8, 8, 3), "uint16"), ((4, 8, 8, 4), "uint8"), ((4, 8, 8), "uint8")]
)
def test_arrays_that_are_not_rgb_bytes_are_refused(shape, dtype):
    with pytest.raises(ValueError, match=r"encodes uint8 chunks \(1, H, W, 3\)"):
        crops_array(MemoryStore(), np.zeros(shape, dtype))


@pytest.mark.parametrize("quality", [0, 101, True])
def test_a_quality_that_is_none_is_refused(quality):
    with pytest.raises(ValueError, match="quality"):
        JpegCodec(quality=quality)


def test_zarr_finds_the_codec_by_its_entry_point_alone(tmp_path):
    crops_array(str(tmp_path / "a.zarr"), np.stack([smooth_image(0, height=16, width=16)] * 2))
    # As an installed package declares it, from the project's own metadata.
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["zarr.codecs"]
    installed = tmp_path / "site" / "fossilray_as_installed-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: fossilray-as-installed\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(
        "[zarr.codecs]\n" + "".join(f"{name} = {where}\n" for name, where in declared.items())
    )
    assert CODEC_NAME in declared
    code = f"import zarr; print(zarr.open({str(tmp_path / 'a.zarr')!r}, mode='r')['crops'][1].shape)"
    seen = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert seen.stdout.strip() == "(16, 16, 3)", seen.stderr
