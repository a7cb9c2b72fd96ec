"""Views made in batches: each change beside the same done image by image, elsewhere."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as plain
from PIL import Image as Pillow
from PIL import ImageOps

from fossilray.training.augmentation import operations
from fossilray.training.augmentation.microscope import ViewStrength
from fossilray.training.augmentation.multi_view import (
    MICROSCOPE,
    PUBLISHED,
    CropStrength,
    FossilViews,
    MultiCropViews,
    PaperViews,
    Views,
)

PLAIN_CROPS = CropStrength(
    global_scale=(1.0, 1.0),
    local_scale=(1.0, 1.0),
    log_aspect=0.0,
    flip_share=0.0,
    jitter_share=0.0,
    grey_share=0.0,
    blur_shares=(0.0, 0.0, 0.0),
    solarise_share=0.0,
)
PLAIN_PAPER = PaperViews(
    40, 1, flip_share=0.0, shift=0.0, zoom=0.0, brightness=0.0, jitter=0.0, blur_share=0.0
)
STILL = ViewStrength(
    turn=0.0,
    mirror_share=0.0,
    box=0.0,
    shift=0.0,
    colour=(1.0, 1.0),
    density=0.0,
    tint=0.0,
    darkest=240.0,
    brightest=240.0,
    lamp_tint=0.0,
    focus=(0.0, 0.0),
    noise=0.0,
)


def some_crops(n: int = 20, side_px: int = 40) -> torch.Tensor:
    """Smooth coloured noise on a clear field of 240."""
    rng = torch.Generator().manual_seed(7)
    coarse = torch.rand(n, 3, 6, 6, generator=rng)
    inner = torch.nn.functional.interpolate(coarse, side_px - 12, mode="bicubic").clamp(0, 1) * 200 + 20
    crops = torch.full((n, 3, side_px, side_px), 240.0)
    crops[..., 6:-6, 6:-6] = inner
    return crops.to(torch.uint8)


CROPS = some_crops()
LIGHT = CROPS.float() / 255
SQUARE = torch.ones(len(CROPS), 2)


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def factors(low: float, high: float) -> torch.Tensor:
    return torch.linspace(low, high, len(CROPS))


@pytest.mark.parametrize(
    ("batched", "one_by_one", "values"),
    [
        (operations.scale_brightness, plain.adjust_brightness, factors(0.4, 1.6)),
        (operations.scale_contrast, plain.adjust_contrast, factors(0.4, 1.6)),
        (operations.scale_saturation, plain.adjust_saturation, factors(0.0, 2.0)),
        (operations.shift_hue, plain.adjust_hue, factors(-0.5, 0.5)),
    ],
)
def test_colours_change_as_torchvision_changes_them_one_by_one(batched, one_by_one, values) -> None:  # type: ignore[no-untyped-def]
    expected = torch.stack([one_by_one(image, float(v)) for image, v in zip(LIGHT, values, strict=True)])
    # Torchvision rounds red's share in grey to 0.2989.
    assert torch.allclose(batched(LIGHT.clone(), values), expected, atol=3e-4)


def test_grey_images_keep_their_grey_whatever_their_hue_is_turned_by() -> None:
    grey = LIGHT.mean(dim=1, keepdim=True).expand_as(LIGHT)
    assert torch.allclose(operations.shift_hue(grey, factors(-0.5, 0.5)), grey, atol=1e-6)


@pytest.mark.parametrize("kernel_px", [9, 13])
def test_blur_is_torchvisions_with_a_sigma_for_each_image(kernel_px: int) -> None:
    sigma = factors(0.1, 2.0)
    chosen = torch.arange(len(CROPS)) % 3 > 0
    found = operations.random_blur(LIGHT.clone(), chosen, sigma, kernel_px=kernel_px)
    blurred = [
        plain.gaussian_blur(image, [kernel_px, kernel_px], [float(s)] * 2)
        for image, s in zip(LIGHT, sigma, strict=True)
    ]
    expected = torch.where(chosen[:, None, None, None], torch.stack(blurred), LIGHT)
    assert torch.allclose(found, expected, atol=1e-5)


def test_solarised_images_are_pils() -> None:
    chosen = torch.arange(len(CROPS)) % 2 == 0
    found = (operations.random_solarise(LIGHT, chosen) * 255).round().byte()
    for image, changed, crop in zip(found, chosen.tolist(), CROPS, strict=True):
        before = Pillow.fromarray(crop.permute(1, 2, 0).numpy())
        expected = np.asarray(ImageOps.solarize(before, 128) if changed else before)
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_sampling_positions_are_those_of_pils_affine_transform() -> None:
    rng = np.random.default_rng(2)
    side_px = 24
    for crop in CROPS[:6]:
        a, b, d, e = (np.eye(2) * rng.uniform(0.4, 0.8) + rng.uniform(-0.2, 0.2, (2, 2))).ravel()
        across, down = rng.uniform(-0.1, 0.1, 2)
        affine = torch.tensor([[[a, b, across], [d, e, down]]], dtype=torch.float32)
        found = operations.sample_grid(
            operations.to_linear_light(crop[None]), affine, side_px=side_px, outside="border"
        )[0]
        # PIL: from output pixels to input pixels, both counted from a corner.
        half, step = crop.shape[-1] / 2, crop.shape[-1] / side_px
        data = (
            a * step,
            b * step,
            half * (1 + across - a - b),
            d * step,
            e * step,
            half * (1 + down - d - e),
        )
        picture = Pillow.fromarray(crop.permute(1, 2, 0).numpy())
        expected = np.asarray(
            picture.transform((side_px, side_px), Pillow.Transform.AFFINE, data, Pillow.Resampling.BILINEAR)
        )
        assert np.abs(found.permute(1, 2, 0).numpy() * 255 - expected).max() < 1.5


def test_paper_view_is_translated_zoomed_and_mixed_as_one_image_would_be() -> None:
    """Whole pixels of translation and no zoom: padded by reflection, cut, and multiplied as Keras' example does."""
    paper = replace(PLAIN_PAPER, shift=0.25, brightness=0.6, jitter=0.2)
    found = paper(CROPS, SQUARE, rng=seeded())[0]
    # The draws, in their order.
    n, rng = len(CROPS), seeded()
    torch.rand(3 * n, generator=rng)  # flip and zoom
    across, down = (operations.uniform(n, -0.5, 0.5, rng) for _ in range(2))
    factor = operations.uniform(n, 0.4, 1.6, rng)
    leak = operations.uniform(9 * n, -0.2, 0.2, rng).view(n, 3, 3)
    for i in range(n):
        # Mirrored about the edge of the last pixel, as Keras has it: the rim comes twice.
        padded = torch.from_numpy(np.pad(LIGHT[i].numpy(), ((0, 0), (20, 20), (20, 20)), mode="symmetric"))
        x, y = 20 + 20 * float(across[i]), 20 + 20 * float(down[i])
        left, top = math.floor(x), math.floor(y)
        four = [padded[:, top + j : top + j + 40, left + k : left + k + 40] for j in (0, 1) for k in (0, 1)]
        fx, fy = x - left, y - top
        moved = (1 - fy) * ((1 - fx) * four[0] + fx * four[1]) + fy * ((1 - fx) * four[2] + fx * four[3])
        mix = float(factor[i]) * torch.eye(3) + leak[i]
        expected = torch.einsum("oc,chw->ohw", mix, moved).clamp(0, 1)
        assert torch.allclose(found[i], expected, atol=1e-4)


@pytest.mark.parametrize("kind", [PUBLISHED, MICROSCOPE])
def test_boxes_of_multicrop_stay_inside_and_have_the_configured_area_and_aspect(kind: CropStrength) -> None:
    ramp = torch.linspace(0, 255, 128).round().to(torch.uint8)
    # Red encodes x, green encodes y.
    gradient = torch.stack([ramp.expand(128, 128), ramp[:, None].expand(128, 128), ramp.expand(128, 128)])
    crops = gradient.expand(200, 3, 128, 128)
    still = replace(kind, jitter_share=0.0, grey_share=0.0, blur_shares=(0.0, 0.0, 0.0), solarise_share=0.0)
    views = MultiCropViews(64, 32, 1, strength=still)(crops, torch.ones(200, 2), rng=seeded())
    for view, (least, most) in zip(views, [kind.global_scale] * 2 + [kind.local_scale], strict=True):
        x, y = view[:, 0], view[:, 1]
        # From the first pixel's middle to the last one's.
        whole = view.shape[-1] / (view.shape[-1] - 1)
        width = (x.amax((1, 2)) - x.amin((1, 2))) * whole
        height = (y.amax((1, 2)) - y.amin((1, 2))) * whole
        area, aspect = width * height, width / height
        assert area.min() > least * 0.93
        assert area.max() < most * 1.05
        assert area.std() > 0.2 * (most - least)
        assert aspect.log().abs().max() < math.log(4 / 3) + 0.1
        flipped = (x[:, 0, 0] > x[:, 0, -1]).float().mean()
        assert 0.2 < float(flipped) < 0.6
        turned = ((x[:, 0, 0] - x[:, 0, -1]).abs() < (x[:, 0, 0] - x[:, -1, 0]).abs()).float().mean()
        assert (0.35 < float(turned) < 0.65) if kind.rotate else turned == 0


@pytest.mark.parametrize(
    "views",
    [
        PLAIN_PAPER,
        MultiCropViews(40, 40, 1, strength=PLAIN_CROPS),
        FossilViews(40, 1, STILL),
    ],
)
def test_views_without_strength_are_the_crops(views: Views) -> None:
    for view in views(CROPS, SQUARE, rng=seeded()):
        assert torch.allclose(view, LIGHT, atol=2e-5)


ALL = [
    PaperViews(32),
    MultiCropViews(32, 16, 3),
    MultiCropViews(32, 16, 3, strength=MICROSCOPE),
    FossilViews(32),
]


@pytest.mark.parametrize("views", ALL)
def test_equal_seeds_give_equal_bytes_and_no_two_views_are_alike(views: Views) -> None:
    shape = torch.rand(len(CROPS), 2, generator=seeded()) * 0.5 + 0.5
    first, again, other = (views(CROPS, shape, rng=seeded(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0], first[1])
    for view in first:
        assert view.dtype == torch.float32
        assert float(view.min()) >= 0
        assert float(view.max()) <= 1


@pytest.mark.parametrize("views", [PaperViews(32), MultiCropViews(32, 16, 3)])
def test_memory_order_of_the_crops_changes_nothing_and_they_stay_as_they_are(views: Views) -> None:
    before = CROPS.clone()
    last = CROPS.contiguous(memory_format=torch.channels_last)
    for a, b in zip(views(CROPS, SQUARE, rng=seeded()), views(last, SQUARE, rng=seeded()), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(CROPS, before)


def test_local_views_of_large_crops_are_averaged_not_skipped() -> None:
    noise = torch.rand(4, 3, 160, 160, generator=seeded())
    crops = (noise * 255).to(torch.uint8)
    view = MultiCropViews(32, 32, 1, strength=PLAIN_CROPS)(crops, torch.ones(4, 2), rng=seeded())[-1]
    assert float(view.std()) < 0.45 * float(noise.std())


def test_turned_fossils_keep_their_true_proportions() -> None:
    """An ellipse stretched to a square fills the square at any angle, as it gets a new box."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    crop = torch.full((3, 64, 64), 240.0)
    crop[:, x**2 + y**2 < 0.9] = 80
    crops = crop.to(torch.uint8).expand(50, 3, 64, 64)
    shape = torch.tensor([[1.0, 0.4]]).expand(50, 2)
    view = FossilViews(64, 1, replace(STILL, turn=math.pi))(crops, shape, rng=seeded())[0]
    dark = view[:, 0] < 0.6
    covered = dark.any(1).float().mean(1), dark.any(2).float().mean(1)
    for share in covered:
        assert float(share.min()) > 0.9
    # Leaning ellipses leave two corners emptier than the other two.
    corners = dark[:, :16, :16].float().mean((1, 2)) - dark[:, :16, -16:].float().mean((1, 2))
    assert float(corners.abs().max()) > 0.3
