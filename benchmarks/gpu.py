"""The networks on a GPU, fed from memory: no slide, no disk, no Ray.

python benchmarks/gpu.py [--compile] [--device cpu --small]

Needs PyTorch, timm, OpenCV, pydantic, pyarrow and typer; the detector is left out where ultralytics is missing.
Printed: the matrix product in bfloat16 that the GPU reaches, as the peak all else is held against; ViT-S/16 alone with
its input on the GPU, and through `embed` from crops in memory by one thread and by two; the bundled embedder and
detector likewise; then a slide of the archive (WINDOWS and CROPS) through two threads as a worker sends it, and from a
profile of a part of that the share of the time in which the GPU ran nothing. Rates are on the clock, median of the
rounds with the least and the most. Without a GPU it prints a message and exits with 2.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
import typer
from inference import CROP_PX, backbone, cut_field, embedder_of, paint_field
from numpy.typing import NDArray

from fossilray.core.config import DetectorConfig, EmbedderConfig
from fossilray.core.parallel import map_ordered
from fossilray.core.types import Detector, Embedder
from fossilray.models.backbones.inference_optimisation import optimise_for_inference
from fossilray.models.backbones.load import load_embedder
from fossilray.models.detectors.load import load_detector
from fossilray.models.device import precision_on

WINDOWS = 203
"""Windows of a mean slide of 437 mm2 without a blank: 178 at 1 um per px, whose cores are 1568 px wide, and 25 at 3."""
CROPS = 20_125
WINDOW_PX = 1856
VIT = "vit_small_patch16_224"
LANES = 2


@dataclass(frozen=True)
class Sizes:
    """How much is run; the small ones only show that all of it runs."""

    seconds: float = 1.5
    rounds: int = 5
    matrix: int = 8192
    batches: tuple[int, ...] = (64, 256, 512)
    tile_batches: tuple[int, ...] = (1, 4, 8)
    window_px: int = WINDOW_PX
    windows: int = WINDOWS
    crops: int = CROPS


SMALL = Sizes(
    seconds=0.0,
    rounds=1,
    matrix=256,
    batches=(2,),
    tile_batches=(1,),
    window_px=320,
    windows=3,
    crops=10,
)


@dataclass
class Rate:
    """Units a second, round by round."""

    unit: str
    rounds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    def __str__(self) -> str:
        return f"{self.median:,.1f} {self.unit} ({min(self.rounds):,.1f} to {max(self.rounds):,.1f})"


def main(
    device: Annotated[str, typer.Option(help="cuda, or cpu to try the benchmark itself.")] = "cuda",
    small: Annotated[bool, typer.Option("--small", help="Sizes that mean nothing and take seconds.")] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="ViT-S/16 through torch.compile too.")] = False,
) -> None:
    """Measure and print."""
    if device == "cuda" and not torch.cuda.is_available():
        print("There is no GPU that PyTorch sees here; --device cpu --small only tries the benchmark itself.")
        raise typer.Exit(2)
    sizes = SMALL if small else Sizes()
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{name}, PyTorch {torch.__version__}, {precision_on(device, 'auto')}")
    peak = measure_matmul(device, sizes)
    print(f"matrix product of {sizes.matrix}, bfloat16: {peak} as the peak")
    for compiles in (False, True) if compiled else (False,):
        show_vit(device, sizes, peak=peak.median, compiled=compiles)

    detector = _detector(device)
    crops = cut_field(min(sizes.crops, 1024))
    windows = paint_field(sizes.window_px)[None].repeat(max(sizes.tile_batches), 0)
    for batch in sizes.batches:
        embedder = load_embedder(EmbedderConfig(batch=batch), device=device)
        assert embedder is not None
        for lanes in (1, LANES):
            rate = by_threads(partial(embedder.embed, _first(crops, batch)), batch, "crops/s", lanes, sizes)
            print(f"bundled embedder, batch {batch}, {lanes} threads: {rate}")
    for batch in sizes.tile_batches if detector is not None else ():
        assert detector is not None
        for lanes in (1, LANES):
            look = partial(detector.detect, windows[:batch], um_per_px=1.0)
            rate = by_threads(look, batch, "windows/s", lanes, sizes)
            megapixels = rate.median * sizes.window_px**2 / 1e6
            print(f"detector, batch {batch}, {lanes} threads: {rate}, {megapixels:,.0f} MP/s")
    for weights, loaded in (
        ("bundled", load_embedder(EmbedderConfig(batch=256), device=device)),
        (VIT, None),
    ):
        embedder = loaded or _vit(device, 256)
        show_slide(
            detector,
            embedder,
            windows[: DetectorConfig().batch],
            crops,
            sizes,
            device=device,
            weights=weights,
        )


def measure_matmul(device: str, sizes: Sizes) -> Rate:
    """TFLOP/s of square matrices in bfloat16."""
    a, b = (torch.randn(sizes.matrix, sizes.matrix, device=device, dtype=torch.bfloat16) for _ in range(2))
    return on_device(lambda: a @ b, 2 * sizes.matrix**3 / 1e12, "TFLOP/s", sizes, device=device)


def show_vit(device: str, sizes: Sizes, *, peak: float, compiled: bool) -> None:
    """ViT-S/16 alone, and through `embed` from memory, each with its share of the peak."""
    tflop = vit_flop() / 1e12
    how = ", compiled" if compiled else ""
    dtype = precision_on(device, "auto")
    for batch in sizes.batches:
        network, side_px = backbone(VIT)
        run: Any = optimise_for_inference(network, side_px=side_px, device=torch.device(device), dtype=dtype)
        run = torch.compile(run, dynamic=False) if compiled else run
        seen = torch.randn(batch, 3, side_px, side_px, device=device, dtype=dtype)
        seen = seen.to(memory_format=torch.channels_last)
        alone = on_device(partial(_infer, run, seen), batch, "crops/s", sizes, device=device)
        print(f"{VIT}, batch {batch}{how}, input on the device: {alone}, {_of_peak(alone, tflop, peak)}")
        embedder = _vit(device, batch, compiled=compiled)
        crops = cut_field(batch)
        for lanes in (1, LANES):
            rate = by_threads(partial(embedder.embed, crops), batch, "crops/s", lanes, sizes)
            print(
                f"{VIT}, batch {batch}{how}, embed by {lanes} threads: {rate}, {_of_peak(rate, tflop, peak)}"
            )


def vit_flop() -> float:
    """Floating-point operations for one crop, a multiplication and an addition counted as two."""
    from torch.utils.flop_counter import FlopCounterMode

    network, side_px = backbone(VIT)
    with FlopCounterMode(display=False) as counted, torch.inference_mode():
        network(torch.zeros(1, 3, side_px, side_px))
    return float(counted.get_total_flops())


def show_slide(
    detector: Detector | None,
    embedder: Embedder,
    windows: NDArray[np.uint8],
    crops: NDArray[np.uint8],
    sizes: Sizes,
    *,
    device: str,
    weights: str,
) -> None:
    """A slide's windows, then its crops, by two threads; slides an hour and how long the GPU stood idle."""
    batch = 256

    def slide(share: float) -> float:
        """Seconds that a share of a slide takes."""
        begin_s = time.perf_counter()
        with ThreadPoolExecutor(LANES) as pool:
            if detector is not None:
                jobs = range(max(1, round(share * sizes.windows / len(windows))))
                look = partial(detector.detect, windows, um_per_px=1.0)
                _drain(map_ordered(pool, lambda _: look(), jobs, ahead=LANES + 1))
            parts = _parts(max(1, round(share * sizes.crops)), batch)
            _drain(
                map_ordered(pool, lambda size: embedder.embed(_first(crops, size)), parts, ahead=LANES + 1)
            )
        return time.perf_counter() - begin_s

    slide(0.1)
    rate = Rate("slides/h", [3600 / slide(1.0) for _ in range(sizes.rounds)])
    what = "detector and embedder" if detector is not None else "embedder alone, ultralytics is missing"
    print(f"a slide from memory, {weights} ({what}), {LANES} threads: {rate}")
    if device != "cuda":
        print("  share of the time in which the GPU was idle: not measured")
        return
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        taken_s = slide(0.2)
    ran = [
        (event.time_range.start, event.time_range.end)
        for event in profiled.events() or ()
        if event.device_type.name == "CUDA"
    ]
    if not ran:
        print("  share of the time in which the GPU ran nothing: the profiler saw no kernel here")
        return
    print(
        f"  share of the time in which the GPU ran nothing: {1 - busy(ran) / 1e6 / taken_s:.0%}, while profiled"
    )


def busy(spans: Iterable[tuple[float, float]]) -> float:
    """The length that spans cover together, however they overlap."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def on_device(work: Callable[[], object], units: float, unit: str, sizes: Sizes, *, device: str) -> Rate:
    """Rate of what is only sent to the device, which is waited for at the end of a round."""

    def times(count: int) -> float:
        begin_s = time.perf_counter()
        for _ in range(count):
            work()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin_s

    return _rounds(times, units, unit, sizes)


def by_threads(work: Callable[[], object], units: float, unit: str, threads: int, sizes: Sizes) -> Rate:
    """Rate of a function that waits for its result, called by several threads at once."""
    with ThreadPoolExecutor(threads) as pool:

        def times(count: int) -> float:
            begin_s = time.perf_counter()
            for done in [pool.submit(work) for _ in range(count)]:
                done.result()
            return time.perf_counter() - begin_s

        return _rounds(times, units, unit, sizes, least=threads)


def _rounds(times: Callable[[int], float], units: float, unit: str, sizes: Sizes, *, least: int = 1) -> Rate:
    times(2 * least)  # streams, kernels and pinned memory are made at the first calls
    each_s = times(2 * least) / (2 * least)
    count = max(least, round(sizes.seconds / each_s))
    return Rate(unit, [units * count / times(count) for _ in range(sizes.rounds)])


def _detector(device: str) -> Detector | None:
    if importlib.util.find_spec("ultralytics") is None:
        print("ultralytics is missing here: the detector is left out")
        return None
    return load_detector(DetectorConfig(), device=device)


def _vit(device: str, batch: int, *, compiled: bool = False) -> Embedder:
    network, side_px = backbone(VIT)
    dtype = precision_on(device, "auto")
    return embedder_of(network, seen_px=side_px, device=device, batch=batch, dtype=dtype, compiled=compiled)


def _infer(network: Callable[[torch.Tensor], object], seen: torch.Tensor) -> None:
    with torch.inference_mode():
        network(seen)


def _of_peak(rate: Rate, tflop: float, peak: float) -> str:
    reached = rate.median * tflop
    return f"{reached:,.1f} TFLOP/s, {reached / peak:.0%} of the peak"


def _first(crops: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    return np.resize(crops, (count, CROP_PX, CROP_PX, 3)) if count > len(crops) else crops[:count]


def _parts(count: int, size: int) -> list[int]:
    return [min(size, count - first) for first in range(0, count, size)]


def _drain(results: Iterable[object]) -> None:
    for _ in results:
        pass


if __name__ == "__main__":
    typer.run(main)
