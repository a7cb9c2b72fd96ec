"""Views a second: made in batches, beside a DataLoader that makes them image by image with PIL and torchvision.

python benchmarks/augmentation.py [--crops 1024 --rounds 3 --workers 0 --workers 2]

The same decoded crops, the same views: those of the paper (two at 96 px) and DINO's (two at 224 px, eight at 96 px),
with the official code's transforms. Then both from JPEG: the stored crops are decoded and brought to the side at which
the stream keeps them, and PIL's side decodes its own. Ways take turns; printed is the best of the rounds, for other
work on the machine only adds. A loader's workers are started before the clock.
"""

from __future__ import annotations

import io
import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import torchvision.transforms as tv
import typer
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageFilter, ImageOps
from torch.utils.data import DataLoader, Dataset

from fossilray.core.images import resize_to
from fossilray.store.arrays.jpeg_codec import decode_crop_above, encode_crop
from fossilray.synthetic.painters.palynomorphs import FOSSIL_KINDS, paint
from fossilray.training.augmentation.multi_view import MultiCropViews, PaperViews, Views

BATCH = 128
STORED_PX = 224
PAINTED = 64
"""Different crops; the rest repeat them."""

PlainView = Callable[[Pillow.Image], torch.Tensor]


@dataclass(frozen=True)
class Kind:
    """The same views both ways."""

    name: str
    kept_px: int
    batched: Views
    plain: list[PlainView]


def main(
    crops: int = 1024,
    rounds: int = 3,
    workers: Annotated[list[int] | None, typer.Option(help="Workers of the loader; several.")] = None,
    kind: Annotated[str, typer.Option(help="paper, multicrop or both.")] = "both",
) -> None:
    """Measure and print."""
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads of PyTorch; best of {rounds} rounds")
    for variant in kinds():
        if kind in (variant.name, "both"):
            compare(variant, crops, rounds, workers or [0, 2])


def kinds() -> list[Kind]:
    """The paper's views and DINO's."""
    paper = [_paper_view] * 2
    dino = [_dino_view(224, (0.4, 1.0), 1.0, 0.0), _dino_view(224, (0.4, 1.0), 0.1, 0.2)]
    dino += [_dino_view(96, (0.05, 0.4), 0.5, 0.0)] * 8
    return [Kind("paper", 112, PaperViews(), paper), Kind("multicrop", 224, MultiCropViews(), dino)]


def compare(kind: Kind, crops: int, rounds: int, workers: list[int]) -> None:
    """Images a second of each way, from decoded crops and from JPEG."""
    stored, encoded = painted(crops)
    kept = np.stack([resize_to(crop, size_px=kind.kept_px) for crop in stored])
    ways: dict[str, Callable[[], float]] = {
        "batched": lambda: batched(kind, kept),
        "JPEG, batched": lambda: batched_from_jpeg(kind, encoded),
    }
    for count in workers:
        loaders = [Loader(Crops(source, kind), count) for source in (list(kept), encoded)]
        ways[f"DataLoader, {count} workers"] = loaders[0].run
        ways[f"JPEG, DataLoader, {count} workers"] = loaders[1].run
    batched(kind, kept[:BATCH])  # starts PyTorch's threads
    best: dict[str, float] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            best[name] = max(best.get(name, 0.0), crops / way())
    print(f"\n{kind.name}: {len(kind.plain)} views of each crop")
    for name in sorted(best, key=lambda way: way.startswith("JPEG")):
        ours = best["JPEG, batched" if name.startswith("JPEG") else "batched"]
        print(f"  {name:30} {best[name]:7.0f} crops/s   batched is {ours / best[name]:.1f} times that")


def painted(crops: int) -> tuple[list[NDArray[np.uint8]], list[bytes]]:
    """Synthetic palynomorphs at the stored side, decoded and as JPEG."""
    rng = np.random.default_rng(1)
    some = []
    for number in range(PAINTED):
        kind = FOSSIL_KINDS[number % len(FOSSIL_KINDS)]
        seen = paint(kind, size_um=60.0, um_per_px=0.25, rng=rng).transmittance * np.array([226, 222, 219])
        noisy = np.clip(seen + rng.normal(0, 3, seen.shape), 0, 255).astype(np.uint8)
        some.append(resize_to(noisy, size_px=STORED_PX))
    encoded = [encode_crop(crop, quality=90) for crop in some]
    return [some[i % PAINTED] for i in range(crops)], [encoded[i % PAINTED] for i in range(crops)]


def batched(kind: Kind, kept: NDArray[np.uint8]) -> float:
    """Seconds for all crops, decoded and at the side at which the stream keeps them."""
    rng, shape = torch.Generator().manual_seed(1), torch.ones(BATCH, 2)
    began_s = time.perf_counter()
    for first in range(0, len(kept), BATCH):
        pixels = torch.from_numpy(kept[first : first + BATCH]).permute(0, 3, 1, 2)
        kind.batched(pixels, shape[: len(pixels)], rng=rng)
    return time.perf_counter() - began_s


def batched_from_jpeg(kind: Kind, encoded: list[bytes]) -> float:
    """Seconds for all crops from JPEG, decoded by a thread a core."""
    rng, shape = torch.Generator().manual_seed(1), torch.ones(BATCH, 2)

    def decode(jpeg: bytes) -> NDArray[np.uint8]:
        crop = decode_crop_above(jpeg, height=STORED_PX, width=STORED_PX, least_px=kind.kept_px)
        return resize_to(crop, size_px=kind.kept_px)

    began_s = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(encoded), BATCH):
            kept = np.stack(list(pool.map(decode, encoded[first : first + BATCH])))
            kind.batched(torch.from_numpy(kept).permute(0, 3, 1, 2), shape[: len(kept)], rng=rng)
    return time.perf_counter() - began_s


class Crops(Dataset[list[torch.Tensor]]):
    """Crops whose views are made one by one."""

    def __init__(self, source: list[NDArray[np.uint8]] | list[bytes], kind: Kind) -> None:
        self._source, self._kind = source, kind

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        crop = self._source[index]
        image = (
            Pillow.open(io.BytesIO(crop)).convert("RGB")
            if isinstance(crop, bytes)
            else Pillow.fromarray(crop)
        )
        return [view(image) for view in self._kind.plain]


class Loader:
    """A DataLoader whose workers stay between rounds."""

    def __init__(self, crops: Crops, workers: int) -> None:
        self._loader = DataLoader(
            crops, batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0
        )
        self._workers = workers
        if workers:
            for _ in self._loader:
                break

    def run(self) -> float:
        """Seconds for all crops; PyTorch has one thread in a worker anyway."""
        began_s = time.perf_counter()
        batches: Iterator[list[torch.Tensor]] = iter(self._loader)
        for _ in batches:
            pass
        return time.perf_counter() - began_s


_BLUR = tv.GaussianBlur(9, (0.1, 2.0))
_TENSOR = tv.ToTensor()


def _paper_view(image: Pillow.Image) -> torch.Tensor:
    """Flip, translation and zoom in one resize of a box, colours by PIL's matrix, blur by torchvision."""
    side, reach = image.width, image.width // 4
    if random.random() < 0.5:
        image = ImageOps.mirror(image)
    pixels = np.pad(np.asarray(image), ((reach, reach), (reach, reach), (0, 0)), mode="symmetric")
    width, height = (side * random.uniform(0.5, 1) for _ in range(2))
    left, top = (
        reach + (side - extent) / 2 + side * random.uniform(-0.25, 0.25) for extent in (width, height)
    )
    box = (left, top, left + width, top + height)
    image = Pillow.fromarray(pixels).resize((96, 96), Pillow.Resampling.BILINEAR, box)
    factor = random.uniform(0.4, 1.6)
    mix = factor * np.eye(3, 4) + np.random.uniform(-0.2, 0.2, (3, 4)) * [1, 1, 1, 0]
    image = image.convert("RGB", tuple(mix.ravel().tolist()))
    if random.random() < 0.5:
        image = _BLUR(image)
    return _TENSOR(image)


def _dino_view(side_px: int, scale: tuple[float, float], blur: float, solarise: float) -> tv.Compose:
    """The transforms of DINO's official code, but for the normalisation, which belongs to the network here."""
    return tv.Compose(
        [
            tv.RandomResizedCrop(side_px, scale=scale, interpolation=tv.InterpolationMode.BICUBIC),
            tv.RandomHorizontalFlip(),
            tv.RandomApply([tv.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            tv.RandomGrayscale(0.2),
            tv.RandomApply([PilBlur()], p=blur),
            tv.RandomSolarize(128, p=solarise),
            _TENSOR,
        ]
    )


class PilBlur:
    """A Gaussian of a random radius."""

    def __call__(self, image: Pillow.Image) -> Pillow.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


if __name__ == "__main__":
    typer.run(main)
