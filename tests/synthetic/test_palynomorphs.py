"""The painter of palynomorphs and debris, and the optics around it."""

from __future__ import annotations

import numpy as np
import pytest

from fossilray.synthetic.painters.light import longest_extent_px
from fossilray.synthetic.painters.palynomorphs import (
    DEBRIS_KINDS,
    FOSSIL_KINDS,
    KINDS,
    PaintedSpecimen,
    paint,
    typical_size_um,
)
from fossilray.synthetic.scanner.optics import background, defocus

EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def painted(kind: str, seed: int, *, size_um: float = 60.0, um_per_px: float = 1.0) -> PaintedSpecimen:
    return paint(kind, size_um=size_um, um_per_px=um_per_px, rng=np.random.default_rng(seed))


@EVERY_KIND
def test_equal_seeds_paint_equal_bytes(kind: str) -> None:
    first, second = painted(kind, 7), painted(kind, 7)
    assert first.transmittance.tobytes() == second.transmittance.tobytes()
    assert np.array_equal(first.mask, second.mask)


@EVERY_KIND
def test_no_two_individuals_are_alike(kind: str) -> None:
    pictures = [painted(kind, seed) for seed in range(5)]
    assert len({picture.transmittance.tobytes() for picture in pictures}) == 5
    colours = np.array([picture.transmittance[picture.mask].mean(0) for picture in pictures])
    assert np.ptp(colours, axis=0).max() > 0.03


@EVERY_KIND
@pytest.mark.parametrize(
    ("size_um", "um_per_px"), [(5, 0.25), (20, 0.5), (80, 1.0), (150, 2.0), (500, 4.0), (500, 1.0)]
)
def test_the_longest_visible_extent_is_the_size_asked_for(
    kind: str, size_um: float, um_per_px: float
) -> None:
    for seed in range(2):
        picture = painted(kind, seed, size_um=size_um, um_per_px=um_per_px)
        extent_um = longest_extent_px(picture.mask) * um_per_px
        assert extent_um == pytest.approx(size_um, rel=0.1, abs=1.5 * um_per_px)


@EVERY_KIND
@pytest.mark.parametrize(("size_um", "um_per_px"), [(2, 4.0), (6, 1.0), (60, 1.0), (60, 0.4)])
def test_light_is_lost_inside_the_mask_and_the_margin_is_clear(
    kind: str, size_um: float, um_per_px: float
) -> None:
    for seed in range(4):
        picture = painted(kind, seed, size_um=size_um, um_per_px=um_per_px)
        light, mask = picture.transmittance, picture.mask
        assert light.dtype == np.float32
        assert light.shape == (*mask.shape, 3)
        assert light.min() >= 0
        assert light.max() <= 1.25
        border = np.ones(mask.shape, bool)
        border[2:-2, 2:-2] = False
        assert (light[border] == 1).all()
        assert not mask[border].any()
        assert mask.any()
        assert light[~mask].min() > 0.9


def test_fossils_and_debris_make_up_all_kinds() -> None:
    assert set(FOSSIL_KINDS) | set(DEBRIS_KINDS) == set(KINDS)
    assert not set(FOSSIL_KINDS) & set(DEBRIS_KINDS)
    for kind in KINDS:
        low, high = typical_size_um(kind)
        assert 0 < low < high


def test_organic_walls_absorb_blue_most() -> None:
    lights = [p.transmittance[p.mask].mean(0) for p in (painted("chorate_cyst", seed) for seed in range(12))]
    red, green, blue = np.mean(lights, axis=0)
    assert red > green > blue


def test_a_size_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="size_um 0"):
        painted("speck", 1, size_um=0)


@pytest.mark.parametrize("um_per_px", [0.25, 1.0, 4.0])
def test_an_empty_field_is_bright_and_nearly_even(um_per_px: float) -> None:
    for seed in range(5):
        field = background(90, 130, um_per_px=um_per_px, rng=np.random.default_rng(seed))
        assert field.shape == (90, 130, 3)
        assert field.dtype == np.float32
        assert field.min() > 0.3
        assert field.max() <= 1
        assert np.ptp(field.mean(2)) < 0.3


def test_defocus_spreads_the_shadow_without_losing_any() -> None:
    sharp = painted("acritarch", 3, size_um=20).transmittance
    soft = defocus(sharp, 2.0, 1.0)
    assert soft.shape[0] > sharp.shape[0]
    assert (1 - soft).sum() == pytest.approx((1 - sharp).sum(), rel=0.03)
    assert soft.min() > sharp.min()
