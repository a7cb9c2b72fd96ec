"""Composites: labels that fit what was painted, and fields that repeat."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fossilray.synthetic.composites import SMALLEST_PX, compose_field
from fossilray.synthetic.crop_library import CropLibrary, cut_out

SHARED_CROPS = Path(__file__).parents[3] / "shared" / "data" / "palynomorphs"


def disc_crop(*, background: tuple[int, int, int] = (226, 222, 219), radius: int = 40) -> np.ndarray:
    """A brown disc of the radius in the middle of a 160 px crop, with a neighbour in one corner."""
    crop = np.full((160, 160, 3), background, np.uint8)
    cv2.circle(crop, (80, 80), radius, tuple(int(v * 0.5) for v in background), -1, cv2.LINE_AA)
    cv2.circle(crop, (158, 4), 14, (60, 40, 20), -1, cv2.LINE_AA)
    return crop


def folder_of_crops(folder: Path, kinds: list[str]) -> Path:
    for index, kind in enumerate(kinds):
        (folder / kind).mkdir(parents=True)
        cv2.imwrite(str(folder / kind / "a.png"), disc_crop(radius=30 + index)[..., ::-1])
    return folder


@pytest.mark.parametrize("seed", range(4))
def test_equal_seeds_give_equal_fields(seed: int) -> None:
    first, second = (compose_field(np.random.default_rng(seed), size_px=128, um_per_px=1.0) for _ in range(2))
    assert (first.image == second.image).all()
    assert (first.boxes == second.boxes).all()
    assert first.kinds == second.kinds


@pytest.mark.parametrize("um_per_px", [0.5, 1.0, 4.0])
def test_every_label_lies_in_the_field_and_is_no_smaller_than_stated(um_per_px: float) -> None:
    for seed in range(5):
        field = compose_field(np.random.default_rng(seed), size_px=160, um_per_px=um_per_px)
        assert field.image.shape == (160, 160, 3)
        assert field.image.dtype == np.uint8
        assert len(field.boxes) == len(field.kinds) == len(field.touching) == len(field.sizes_um)
        assert (field.boxes >= 0).all()
        assert (field.boxes <= 160).all()
        longest = (field.boxes[:, 2:] - field.boxes[:, :2]).max(1, initial=SMALLEST_PX)
        assert (longest >= SMALLEST_PX).all()
        assert np.allclose(
            field.sizes_um, (field.boxes[:, 2:] - field.boxes[:, :2]).max(1, initial=0) * um_per_px
        )


def test_fields_differ_in_background_density_and_contact() -> None:
    fields = [compose_field(np.random.default_rng(seed), size_px=160, um_per_px=1.0) for seed in range(24)]
    backgrounds = [float(np.percentile(field.image, 85)) for field in fields]
    counts = [len(field.boxes) for field in fields]
    touching = np.concatenate([field.touching for field in fields])
    assert max(backgrounds) - min(backgrounds) > 80
    assert max(counts) > 4 * max(1, min(counts))
    assert 0.1 < touching.mean() < 0.9


def test_a_real_crop_is_cut_out_along_its_outline() -> None:
    cutout = cut_out(disc_crop(), kind="disc")
    assert cutout is not None
    rows, columns = np.flatnonzero(cutout.mask.any(1)), np.flatnonzero(cutout.mask.any(0))
    assert abs(len(rows) - 81) <= 6
    assert abs(len(columns) - 81) <= 6
    middle = cutout.transmittance[cutout.mask.shape[0] // 2, cutout.mask.shape[1] // 2]
    assert np.allclose(middle, 0.5, atol=0.04)


def test_a_cutout_leaves_no_seam_and_no_neighbour() -> None:
    cutout = cut_out(disc_crop(), kind="disc")
    assert cutout is not None
    light = cutout.transmittance
    border = np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]])
    assert np.abs(border - 1).max() < 0.03


@pytest.mark.parametrize("background", [(226, 222, 219), (140, 140, 150), (230, 190, 200)])
def test_the_background_of_a_crop_is_divided_away(background: tuple[int, int, int]) -> None:
    cutout = cut_out(disc_crop(background=background), kind="disc")
    assert cutout is not None
    middle = cutout.transmittance[cutout.mask.shape[0] // 2, cutout.mask.shape[1] // 2]
    assert np.allclose(middle, 0.5, atol=0.04)


def test_an_empty_crop_is_rejected() -> None:
    assert cut_out(np.full((100, 100, 3), 220, np.uint8), kind="nothing") is None


def test_kinds_can_be_chosen_and_held_back(tmp_path: Path) -> None:
    folder = folder_of_crops(tmp_path, ["a", "b", "c"])
    assert CropLibrary.from_folder(folder).kinds == ("a", "b", "c")
    assert CropLibrary.from_folder(folder, only=["b"]).kinds == ("b",)
    assert CropLibrary.from_folder(folder, without=["b"]).kinds == ("a", "c")


def test_real_crops_appear_on_fields(tmp_path: Path) -> None:
    library = CropLibrary.from_folder(folder_of_crops(tmp_path, ["real"]))
    kinds: set[str] = set()
    for seed in range(12):
        kinds |= set(
            compose_field(np.random.default_rng(seed), size_px=160, um_per_px=1.0, library=library).kinds
        )
    assert "real" in kinds
    assert len(kinds) > 3


@pytest.mark.skipif(not SHARED_CROPS.is_dir(), reason="the shared images are not here")
def test_most_real_palynomorphs_can_be_cut_out() -> None:
    library = CropLibrary.from_folder(SHARED_CROPS, only=["alisocysta", "areosphaeridium"])
    assert len(library.cutouts) > 0.5 * (len(library.cutouts) + library.rejected)
