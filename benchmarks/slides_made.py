"""Synthetic slides for benchmarks, painted once and kept: one field as several formats, with its truth."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import pyarrow as pa
import pyarrow.parquet as pq

from fossilray import __version__
from fossilray.synthetic.assemblage import Column
from fossilray.synthetic.scene import Scene
from fossilray.synthetic.writers.mirax import MiraxOptions, write_mirax
from fossilray.synthetic.writers.tiff import TiffOptions, write_pyramidal_tiff

MPP = 0.25
# The archive's mean slide takes 1.9 GB for 7 gigapixels, 0.27 bytes a px; painted fields, smoother than real ones,
# take 0.24 with this quality and 0.07 with the 80 of `fossilray synth`. Bytes are what decoding takes its time for.
JPEG_QUALITY = 97
Form = Literal["overlapping", "aligned", "tiff"]
"""overlapping: MIRAX whose photos overlap at irregular positions, as scanners write them; aligned: without."""
Density = Literal["dense", "sparse"]

# Painted objects a mm2 under the cover glass. Of them so many lie in plain sight that the truth of a dense slide
# names about 46 a mm2 of scanned area, as many as the mean slide of the archive has, and of a sparse one about 5.
_PAINTED_PER_MM2: dict[Density, float] = {"dense": 52.0, "sparse": 5.5}
_JITTER_PX = 8
_RECIPE_KEY = b"fossilray.benchmark"


@dataclass(frozen=True)
class SlideKind:
    """What determines a slide's every byte; slides that differ in form alone show the same field."""

    form: Form
    density: Density
    side_px: int
    seed: int = 1
    jpeg_quality: int = JPEG_QUALITY
    version: str = __version__

    @property
    def name(self) -> str:
        return f"{self.density}-{self.form}-{self.side_px}-q{self.jpeg_quality}-{self.seed}"


@dataclass(frozen=True)
class MadeSlide:
    """A slide on the disk. truth: a Parquet file with slide_id and the box of each object, level-0 px."""

    kind: SlideKind
    path: Path
    truth: Path

    @property
    def files(self) -> list[Path]:
        """All files of the slide."""
        folder = self.path.with_suffix("")
        return [self.path, *(sorted(folder.iterdir()) if folder.is_dir() else [])]


def make_slides(folder: Path, kinds: Sequence[SlideKind], *, processes: int = 1) -> list[MadeSlide]:
    """Return the slides in order; those that exist in the folder are not painted again.

    A slide of 32,768 px takes about two minutes of a core and less than 1 GB of memory.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = [_make_slide(folder, kind) for kind in kinds]
    missing = [slide for slide in made if not _is_whole(slide)]
    if processes == 1 or len(missing) < 2:
        for slide in missing:
            _paint(slide)
        return made
    # Spawned, not forked: OpenCV's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        processes, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        for _ in pool.map(_paint, missing):
            pass
    return made


def _make_slide(folder: Path, kind: SlideKind) -> MadeSlide:
    suffix = ".tiff" if kind.form == "tiff" else ".mrxs"
    return MadeSlide(kind, folder / f"{kind.name}{suffix}", folder / f"{kind.name}.truth.parquet")


def _is_whole(slide: MadeSlide) -> bool:
    """The truth is written last."""
    if not (slide.path.is_file() and slide.truth.is_file()):
        return False
    stated = (pq.read_schema(slide.truth).metadata or {}).get(_RECIPE_KEY)
    return stated == _recipe(slide.kind)


def _recipe(kind: SlideKind) -> bytes:
    return json.dumps({**asdict(kind), "painted_per_mm2": _PAINTED_PER_MM2[kind.density]}).encode()


def _paint(slide: MadeSlide) -> None:
    kind = slide.kind
    slide.truth.unlink(missing_ok=True)
    column = Column(kind.seed)
    (sample,) = column.samples(1)
    scene = Scene(
        replace(column.assemblage(sample, slide=0, slides=1), density_per_mm2=_PAINTED_PER_MM2[kind.density]),
        width=kind.side_px,
        height=kind.side_px,
        um_per_px=MPP,
        seed=[kind.seed, 5, 0],
    )
    x, y, inset_px = 0, 0, 0
    if kind.form == "tiff":
        tiff = TiffOptions(mpp=MPP, jpeg_quality=kind.jpeg_quality, background_rgb=scene.background_rgb)
        write_pyramidal_tiff(slide.path, scene, tiff)
    else:
        layout = write_mirax(
            slide.path,
            scene,
            MiraxOptions(
                mpp=MPP,
                layout=kind.form,
                jitter_px=_JITTER_PX,
                jpeg_quality=kind.jpeg_quality,
                background_rgb=scene.background_rgb,
                seed=kind.seed,
            ),
        )
        x, y = layout.offset_x, layout.offset_y
        # Photos may leave the rim out, by as much as they jitter.
        inset_px = _JITTER_PX if kind.form == "overlapping" else 0
    boxes = [seen.box for seen in scene.objects(inset_px=inset_px)]
    truth = pa.table(
        {
            "slide_id": pa.array([kind.name] * len(boxes), pa.string()),
            "x_min": [box.x_min + x for box in boxes],
            "y_min": [box.y_min + y for box in boxes],
            "x_max": [box.x_max + x for box in boxes],
            "y_max": [box.y_max + y for box in boxes],
        }
    )
    pq.write_table(truth.replace_schema_metadata({_RECIPE_KEY: _recipe(kind)}), slide.truth)
