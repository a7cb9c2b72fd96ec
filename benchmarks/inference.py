"""Networks on this machine's CPU: the detector and three embedders, ours against the plain way.

python benchmarks/inference.py [--rounds 5 --only detector --only vit_small_patch16_224 --compile] [--sweep]

The plain way runs networks as their libraries give them: float32, channels first, norms and dense head as trained, the
batch as configured, pixels normalised in three steps; the detector with torchvision's suppression behind it. Ours are
`load_detector` and the class behind `load_embedder`, in float32 and in what `workers.precision=auto` picks here. All
ways take turns on the same pixels, in one process with one thread, in one with two, and in two with one each.
Printed: megapixels or crops a second on the clock (of all processes together) and of CPU, median over the rounds with
the least and the most, and how many times the plain way's CPU rate it is. `--sweep` prints our embedders' rate by the
number of crops of a forward pass instead.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Annotated, Any

import cv2
import numpy as np
import timm
import torch
import typer
from numpy.typing import NDArray

from fossilray.core.config import DetectorConfig, EmbedderConfig
from fossilray.core.config.choices import Precision
from fossilray.models.backbones.embedder import IMAGENET_MEAN, IMAGENET_STD, BackboneEmbedder, Preprocessing
from fossilray.models.backbones.inference_optimisation import optimise_for_inference
from fossilray.models.backbones.load import load_network
from fossilray.models.device import precision_on

WINDOW_PX = 832
CROP_PX = 224
CREWS = ((1, 1), (1, 2), (2, 1))
"""(processes, threads of each)."""
NAMES = ("detector", "bundled", "vit_tiny_patch16_224", "vit_small_patch16_224")

Ways = dict[str, Callable[[], object]]


def main(
    rounds: int = 5,
    crops: Annotated[int, typer.Option(help="Crops embedded in a round.")] = 64,
    only: Annotated[list[str] | None, typer.Option(help="Of detector, bundled and timm's names.")] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Ours through torch.compile too.")] = False,
    sweep: Annotated[bool, typer.Option("--sweep", help="Rates by the size of a forward pass.")] = False,
) -> None:
    """Measure and print."""
    for name in only or NAMES:
        if sweep:
            if name != "detector":
                show_sweep(name, rounds=rounds)
            continue
        unit = "MP/s" if name == "detector" else "crops/s"
        for processes, threads in CREWS:
            print(f"\n{name}: {processes} processes of {threads} threads")
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(processes, mp_context=context) as pool:
                jobs = [
                    pool.submit(measure, name, rounds=rounds, crops=crops, threads=threads, compiled=compiled)
                    for _ in range(processes)
                ]
                show([job.result() for job in jobs], unit=unit)


def measure(
    name: str, *, rounds: int, crops: int, threads: int, compiled: bool
) -> dict[str, list[tuple[float, float]]]:
    """For each way and round, units a second on the clock and of CPU."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    if name == "detector":
        ways, units = detector_ways(), WINDOW_PX**2 / 1e6
    else:
        ways, units = embedder_ways(name, crops=crops, compiled=compiled), float(crops)
    for run in ways.values():
        run()
    rates: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            run()
            rates[way].append((units / (time.perf_counter() - wall_s), units / (time.process_time() - cpu_s)))
    return rates


def show(measured: list[dict[str, list[tuple[float, float]]]], *, unit: str) -> None:
    """One line a way: processes' rates on the clock added up, their rates of CPU as they are."""
    plain = statistics.median(cpu for slide in measured for _, cpu in slide["plain"])
    for way in measured[0]:
        wall = sum(statistics.median(wall for wall, _ in slide[way]) for slide in measured)
        cpu = sorted(cpu for slide in measured for _, cpu in slide[way])
        median = statistics.median(cpu)
        print(
            f"  {way:22} {wall:8.1f} {unit} on the clock {median:8.1f} ({cpu[0]:.1f} to {cpu[-1]:.1f}) a second of "
            f"CPU, {median / plain:5.2f} times"
        )


def show_sweep(name: str, *, rounds: int) -> None:
    """Crops a second of CPU by the size of a forward pass, one thread; the best of the rounds, which take turns."""
    torch.set_num_threads(1)
    auto = precision_on("cpu", "auto")
    for dtype in dict.fromkeys((torch.float32, auto)):
        network, seen_px = backbone(name)
        tuned = optimise_for_inference(network, side_px=seen_px, device=torch.device("cpu"), dtype=dtype)
        seen = torch.randn(128, 3, seen_px, seen_px).to(dtype).to(memory_format=torch.channels_last)
        sizes = [size for size in (1, 2, 4, 8, 16, 32, 64, 128) if size * seen_px**2 <= 2**22]
        best = dict.fromkeys(sizes, 0.0)
        with torch.inference_mode():
            for _ in range(rounds):
                for size in sizes:
                    begin_s = time.process_time()
                    for first in range(0, sizes[-1], size):
                        tuned(seen[first : first + size])
                    best[size] = max(best[size], sizes[-1] / (time.process_time() - begin_s))
        print(f"{name} {dtype}: " + ", ".join(f"{size}: {rate:.0f}" for size, rate in best.items()))


def detector_ways() -> Ways:
    """The bundled detector over one window."""
    from fossilray.models.detectors.detector_file import read_detector
    from fossilray.models.detectors.load import load_detector
    from fossilray.models.detectors.ultralytics_network import build_detector_network
    from fossilray.models.weights_file import bundled_weights

    config = DetectorConfig()
    tiles = paint_field(WINDOW_PX)[None]
    state, meta = read_detector(path := bundled_weights("detector"))
    network = build_detector_network(meta.architecture, nc=meta.nc, state=state, source=path)
    ways: Ways = {"plain": lambda: detect_plainly(network, tiles, config)}
    precisions: tuple[Precision, ...] = ("float32", "auto")
    for precision in precisions:
        detector = load_detector(config, device="cpu", precision=precision)
        ways[f"ours, {_shown(precision)}"] = lambda detector=detector: detector.detect(tiles, um_per_px=1.0)  # type: ignore[misc]
    return ways


def detect_plainly(
    network: torch.nn.Module, tiles: NDArray[np.uint8], config: DetectorConfig
) -> list[torch.Tensor]:
    """Boxes of an ultralytics network as a short script finds them."""
    from torchvision.ops import box_convert, nms

    with torch.inference_mode():
        seen = torch.from_numpy(255 - tiles).permute(0, 3, 1, 2).float() / 255
        kept = []
        for rows in network(seen)[0]:
            scores = rows[4:].amax(0)
            wanted = scores > config.confidence
            boxes = box_convert(rows[:4, wanted].T, "cxcywh", "xyxy")
            kept.append(boxes[nms(boxes, scores[wanted], config.iou)])
    return kept


def embedder_ways(name: str, *, crops: int, compiled: bool) -> Ways:
    """A backbone over crops of the usual size."""
    pixels = cut_field(crops)
    network, seen_px = backbone(name)
    shown = Preprocessing(seen_px, IMAGENET_MEAN, IMAGENET_STD, "bicubic")
    ways: Ways = {"plain": lambda: embed_plainly(network, pixels, shown)}
    precisions: tuple[Precision, ...] = ("float32", "auto")
    for precision in precisions:
        for compiles in (False, True) if compiled else (False,):
            ours, _ = backbone(name)
            embedder = embedder_of(
                ours, seen_px=seen_px, dtype=precision_on("cpu", precision), compiled=compiles
            )
            way = f"ours, {_shown(precision)}{', compiled' if compiles else ''}"
            ways[way] = lambda embedder=embedder: embedder.embed(pixels)  # type: ignore[misc]
    return ways


def embed_plainly(
    network: torch.nn.Module, crops: NDArray[np.uint8], shown: Preprocessing, batch: int = 64
) -> list[torch.Tensor]:
    """Vectors of a timm network as a short script makes them."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (shown.mean, shown.std))
    side = (shown.size_px, shown.size_px)
    outputs = []
    with torch.inference_mode():
        for first in range(0, len(crops), batch):
            light = torch.from_numpy(crops[first : first + batch]).permute(0, 3, 1, 2).contiguous()
            if light.shape[-2:] != side:
                light = torch.nn.functional.interpolate(light, side, mode="bicubic", antialias=True)
            outputs.append(network((light.float() / 255 - mean) / std))
    return outputs


def backbone(name: str) -> tuple[torch.nn.Module, int]:
    """The bundled network, or timm's of this name with random weights, and the side it sees."""
    if name == "bundled":
        network, _, shown = load_network(EmbedderConfig())
        return network, shown.size_px
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0)
    return network.eval(), CROP_PX


def embedder_of(network: torch.nn.Module, *, seen_px: int, **options: Any) -> BackboneEmbedder:
    """Ours around a network."""
    shown = Preprocessing(seen_px, IMAGENET_MEAN, IMAGENET_STD, "bicubic")
    settings: dict[str, Any] = {"device": "cpu", "batch": 64} | options
    return BackboneEmbedder(network, name="measured", preprocessing=shown, **settings)


def paint_field(side_px: int, *, um_per_px: float = 1.0, seed: int = 0) -> NDArray[np.uint8]:
    """A clear field with as many brown discs as a slide of the archive has objects, 46 a mm2."""
    rng = np.random.default_rng(seed)
    field = np.full((side_px, side_px, 3), (235, 230, 220), np.uint8)
    for _ in range(round(46 * (side_px * um_per_px / 1000) ** 2)):
        x, y = rng.integers(0, side_px, 2)
        axes = rng.integers(10, 40, 2) / um_per_px
        colour = [int(part) for part in rng.integers((90, 60, 20), (180, 140, 90))]
        cv2.ellipse(field, (int(x), int(y)), (int(axes[0]), int(axes[1])), 0, 0, 360, colour, -1, cv2.LINE_AA)
    grain = rng.normal(0, 4, field.shape)
    return np.clip(cv2.GaussianBlur(field, (0, 0), 1.0) + grain, 0, 255).astype(np.uint8)


def cut_field(count: int) -> NDArray[np.uint8]:
    """Windows of a field, grainy and each another."""
    field = paint_field(2048, um_per_px=0.25)
    corners = np.random.default_rng(1).integers(0, 2048 - CROP_PX, (count, 2))
    return np.stack([field[y : y + CROP_PX, x : x + CROP_PX] for x, y in corners])


def _shown(precision: Precision) -> str:
    return str(precision_on("cpu", precision)).removeprefix("torch.")


if __name__ == "__main__":
    typer.run(main)
