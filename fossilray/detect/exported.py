"""Detectors exported from any framework: ONNX (the only home of onnxruntime) and TorchScript.

This is the road for networks that ultralytics cannot load, the paper's YOLOv5 weights among them; see
docs/detectors.md.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fossilray.config import DetectorConfig
from fossilray.detect.boxes import RowLayout, decode_rows, guess_layout, pad_tiles, rows_last, to_input
from fossilray.errors import WeightsError
from fossilray.records import Boxes

if TYPE_CHECKING:
    import torch

DEFAULT_STRIDE_PX = 32
"""Coarsest stride of every YOLO with three heads; taken when the export does not state its own."""

# TorchScript can write files (save, from_file), and what a graph does not show: calls of interfaces, other threads,
# other machines, and operators of libraries that are not PyTorch's own.
_MORE_THAN_ARITHMETIC = (
    "aten::save",
    "aten::from_file",
    "prim::CallMethod",
    "prim::CallFunction",
    "prim::fork",
)
_ARITHMETIC = ("aten::", "prim::", "torchvision::")


@dataclass(frozen=True)
class ExportedNetwork:
    """A network behind one call, and what its file says of the input it takes; None where that is free."""

    run: Callable[[torch.Tensor], torch.Tensor]
    """(b, 3, H, W) float32 to its first output."""
    stride_px: int
    batch: int | None
    height_px: int | None
    width_px: int | None
    suppressed: bool
    """Its output went through suppression already (rows of x_min, y_min, x_max, y_max, score, class)."""


class ExportedDetector:
    """Boxes from an exported network; `subject` names its file in errors."""

    def __init__(
        self, network: ExportedNetwork, *, config: DetectorConfig, device: torch.device | str, subject: str
    ) -> None:
        import torch

        self._network = network
        self._config = config
        self._device = torch.device(device)
        self._subject = subject

    @property
    def stride_px(self) -> int:
        return self._network.stride_px

    def detect(self, tiles: NDArray[np.uint8], *, um_per_px: float) -> list[Boxes]:
        """One Boxes per tile, in tile pixels.

        Raises:
            WeightsError: the network takes a fixed size and a tile is larger, or its output is not boxes.
        """
        height, width = tiles.shape[1:3]
        padded = pad_tiles(
            tiles,
            height_px=self._side(height, self._network.height_px, "high"),
            width_px=self._side(width, self._network.width_px, "wide"),
        )
        step = self._network.batch or max(len(tiles), 1)
        found: list[Boxes] = []
        for first in range(0, len(tiles), step):
            found += self._detect_batch(padded[first : first + step], step, height_px=height, width_px=width)
        return found

    def _detect_batch(
        self, tiles: NDArray[np.uint8], step: int, *, height_px: int, width_px: int
    ) -> list[Boxes]:
        import torch

        count = len(tiles)
        if count < step:  # a fixed batch is filled up; the repeats are dropped again
            tiles = np.concatenate([tiles, np.repeat(tiles[-1:], step - count, axis=0)])
        with torch.inference_mode():
            invert = self._config.invert is not False
            seen = torch.from_numpy(np.ascontiguousarray(tiles)).to(self._device)
            batch = to_input(seen, invert=invert, dtype=torch.float32).contiguous()
            raw = self._network.run(batch)
            layout = self._layout(tuple(raw.shape))
            return decode_rows(
                rows_last(raw, layout=layout)[:count],
                layout=layout,
                confidence=self._config.confidence,
                iou=self._config.iou,
                most=self._config.max_per_tile,
                width_px=width_px,
                height_px=height_px,
            )

    def _layout(self, shape: tuple[int, ...]) -> RowLayout:
        if self._config.output != "auto":
            layout: RowLayout = self._config.output
        elif self._network.suppressed:
            layout = "boxes"
        else:
            layout = guess_layout(shape, subject=self._subject)
        least = {"classes": 5, "objectness": 6, "boxes": 6}[layout]
        channels = (shape[2] if layout == "boxes" else min(shape[1:])) if len(shape) == 3 else 0
        if channels < least or (layout == "boxes" and channels > least):
            raise WeightsError(
                f"{self._subject} puts out an array of shape {shape}, and rows of {layout} have "
                f"{least} channels{'' if layout == 'boxes' else ' or more'}; set detector.output to what the model "
                "was exported with, or to auto"
            )
        return layout

    def _side(self, side_px: int, fixed_px: int | None, extent: str) -> int:
        if fixed_px is None:
            return -(-side_px // self.stride_px) * self.stride_px
        if side_px > fixed_px:
            raise WeightsError(
                f"{self._subject} takes images {fixed_px} px {extent}, and tiles with their halo are {side_px} px "
                "at the detection scale; export it with --dynamic or a larger --imgsz, or lower tiling.tile_px, "
                "or detector.seen_at_px, or raise um_per_px in detector.passes"
            )
        return fixed_px


def load_onnx(path: Path, *, device: torch.device | str) -> ExportedNetwork:
    """An ONNX model on onnxruntime, with as many threads as PyTorch has; on CUDA if both have it.

    Raises:
        WeightsError: onnxruntime is not installed, or the file is not a model it can run.
    """
    import torch

    try:
        import onnxruntime
    except ImportError:
        raise WeightsError(
            f"{path} needs onnxruntime, which is not installed: pip install 'fossilray[onnx]'"
        ) from None
    faults = onnxruntime.capi.onnxruntime_pybind11_state
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    if torch.device(device).type == "cuda":
        providers.insert(0, "CUDAExecutionProvider")
    available = set(onnxruntime.get_available_providers())
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=[name for name in providers if name in available]
        )
    except (faults.Fail, faults.InvalidArgument, faults.InvalidGraph, faults.InvalidProtobuf) as error:
        raise WeightsError(f"{path} is not an ONNX model onnxruntime can run: {_first_line(error)}") from None
    except (faults.NoSuchFile, faults.NotImplemented, faults.RuntimeException) as error:
        raise WeightsError(f"{path} cannot be run by onnxruntime: {_first_line(error)}") from None
    taken = session.get_inputs()
    if len(taken) != 1 or len(taken[0].shape) != 4:
        raise WeightsError(
            f"{path} takes {[entry.shape for entry in taken]}, not one batch of images (b, 3, H, W); export a "
            "detection network"
        )
    kind = np.float16 if taken[0].type == "tensor(float16)" else np.float32
    name = taken[0].name

    def run(batch: torch.Tensor) -> torch.Tensor:
        try:
            first = session.run(None, {name: batch.cpu().numpy().astype(kind, copy=False)})[0]
        except (faults.Fail, faults.InvalidArgument, faults.RuntimeException) as error:
            raise _refused_window(path, batch, error) from None
        return torch.from_numpy(np.ascontiguousarray(first, dtype=np.float32)).to(batch.device)

    batch, _, height, width = (entry if isinstance(entry, int) else None for entry in taken[0].shape)
    stated = _parse_values(session.get_modelmeta().custom_metadata_map)
    return ExportedNetwork(run, _stride(stated), batch, height, width, _is_suppressed(stated))


def load_torchscript(path: Path, *, device: torch.device | str) -> ExportedNetwork:
    """A TorchScript archive in float32; a trace works at the one size that its export states.

    Raises:
        WeightsError: the file is not TorchScript, or does more than compute.
    """
    import torch

    load: Any = torch.jit.load
    extra = {"config.txt": ""}  # YOLOv5 and ultralytics keep the shape and the stride there
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch retires TorchScript; users still have it
            _refuse_code_at_loading(path)
            script = load(str(path), map_location=torch.device(device), _extra_files=extra)
            _refuse_more_than_arithmetic(path, script.inlined_graph)
    except (AttributeError, RuntimeError, ValueError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} is not a TorchScript model: {_first_line(error)}") from None
    script = script.float().eval()
    stated = _parse_json(extra["config.txt"])

    def run(batch: torch.Tensor) -> torch.Tensor:
        try:
            output = script(batch)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise _refused_window(path, batch, error) from None
        while isinstance(output, (tuple, list)) and output:
            output = output[0]
        if not isinstance(output, torch.Tensor):
            raise WeightsError(f"{path} puts out {type(output).__name__}, not an array of boxes")
        return output

    batch, height, width = _traced_shape(stated)
    return ExportedNetwork(run, _stride(stated), batch, height, width, _is_suppressed(stated))


def _refuse_code_at_loading(path: Path) -> None:
    """What a class does in __setstate__ runs while the archive is loaded, before its graph can be looked at."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".py") and b"__setstate__" in archive.read(name):
                raise WeightsError(
                    f"{path} runs code of its own when it is loaded ({name}); export the network to .onnx instead"
                )


def _refuse_more_than_arithmetic(path: Path, graph: Any) -> None:
    found = [kind for kind in _MORE_THAN_ARITHMETIC if graph.findAllNodes(kind, True)]
    found += [node.kind() for node in _all_nodes(graph) if not node.kind().startswith(_ARITHMETIC)]
    if found:
        raise WeightsError(
            f"{path} does more than compute ({', '.join(sorted(set(found)))}); export the network to .onnx instead"
        )


def _all_nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _all_nodes(inner)


def _refused_window(path: Path, batch: torch.Tensor, error: Exception) -> WeightsError:
    _, _, height, width = batch.shape
    last = str(error).strip().splitlines()[-1]
    return WeightsError(
        f"{path} cannot take {len(batch)} tiles of {width} x {height} px ({last}); export it with --dynamic, or "
        "at this size with --imgsz"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _traced_shape(stated: dict[str, Any]) -> tuple[int | None, int | None, int | None]:
    """Batch, height and width of the trace, if the export states them (YOLOv5: `shape`; ultralytics: `imgsz`)."""
    shape, side = stated.get("shape"), stated.get("imgsz")
    if isinstance(shape, list) and len(shape) == 4:
        return int(shape[0]), int(shape[2]), int(shape[3])
    dynamic = stated.get("dynamic") or (stated.get("args") or {}).get("dynamic")
    if isinstance(side, list) and len(side) == 2 and not dynamic:
        return int(stated.get("batch", 1)), int(side[0]), int(side[1])
    return None, None, None


def _stride(stated: dict[str, Any]) -> int:
    stride = stated.get("stride")
    return stride if isinstance(stride, int) and stride > 0 else DEFAULT_STRIDE_PX


def _is_suppressed(stated: dict[str, Any]) -> bool:
    arguments = stated.get("args")
    return bool(stated.get("end2end")) or bool(isinstance(arguments, dict) and arguments.get("nms"))


def _parse_json(text: str | bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _parse_values(metadata: dict[str, str]) -> dict[str, Any]:
    """ONNX metadata, whose values are Python literals written as text."""
    import ast

    values: dict[str, Any] = {}
    for name, text in metadata.items():
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[name] = text
    return values
