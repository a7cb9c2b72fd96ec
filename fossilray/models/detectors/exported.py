"""Detectors exported from any framework: ONNX (the only home of onnxruntime) and TorchScript.

For networks that ultralytics cannot load, such as the paper's YOLOv5 weights; see
docs/guide/detectors.md.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config import DetectorConfig
from fossilray.core.errors import WeightsError
from fossilray.core.formats import FileRole, parse_json
from fossilray.core.types import Boxes
from fossilray.models.detectors.boxes import (
    RowLayout,
    decode_rows,
    guess_layout,
    pad_tiles,
    rows_last,
    to_input,
)
from fossilray.models.detectors.onnx_model import bound_memory, check_model
from fossilray.models.detectors.torchscript_source import check_archive

if TYPE_CHECKING:
    import torch

_NMS = re.compile(r"'nms': ?True")
"""In the arguments of the export, which ultralytics writes into a model as the text of a Python dict."""

DEFAULT_STRIDE_PX = 32
"""Coarsest stride of every YOLO with three heads; the default if the export does not declare its own."""


@dataclass(frozen=True)
class ExportedNetwork:
    """A network as a function, and the input shape that its file declares; None for a free dimension."""

    run: Callable[[torch.Tensor], torch.Tensor]
    """Maps (b, 3, H, W) float32 to its first output."""
    stride_px: int
    batch: int | None
    height_px: int | None
    width_px: int | None
    suppressed: bool
    """Whether its output is already suppressed (rows of x_min, y_min, x_max, y_max, score, class)."""


class ExportedDetector:
    """Detector with an exported network; `subject` names its file in errors."""

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
        """Return one Boxes per tile, in tile pixels.

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
        boxes: list[Boxes] = []
        for first in range(0, len(tiles), step):
            boxes += self._detect_batch(padded[first : first + step], step, height_px=height, width_px=width)
        return boxes

    def _detect_batch(
        self, tiles: NDArray[np.uint8], step: int, *, height_px: int, width_px: int
    ) -> list[Boxes]:
        import torch

        count = len(tiles)
        if count < step:  # a fixed batch is padded with repeats, which are dropped again
            tiles = np.concatenate([tiles, np.repeat(tiles[-1:], step - count, axis=0)])
        with torch.inference_mode():
            invert = self._config.invert is not False
            pixels = torch.from_numpy(np.ascontiguousarray(tiles)).to(self._device)
            batch = to_input(pixels, invert=invert, dtype=torch.float32).contiguous()
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
        min_channels = {"classes": 5, "objectness": 6, "boxes": 6}[layout]
        channels = (shape[2] if layout == "boxes" else min(shape[1:])) if len(shape) == 3 else 0
        if channels < min_channels or (layout == "boxes" and channels > min_channels):
            raise WeightsError(
                f"{self._subject} puts out an array of shape {shape}, and rows of {layout} have "
                f"{min_channels} channels{'' if layout == 'boxes' else ' or more'}; set detector.output to the layout "
                "of the export, or to auto"
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
    """Load an ONNX model in onnxruntime, with as many threads as PyTorch has; on CUDA if both support it.

    Raises:
        WeightsError: onnxruntime is not installed, or cannot run the file.
    """
    import torch

    try:
        import onnxruntime
    except ImportError:
        raise WeightsError(
            f"{path} needs onnxruntime, which is not installed: pip install 'fossilray[onnx]'"
        ) from None
    content = check_model(path)
    faults = onnxruntime.capi.onnxruntime_pybind11_state
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # failures are reported by the exceptions below
    bound_memory(onnxruntime, options)
    providers = ["CPUExecutionProvider"]
    if torch.device(device).type == "cuda":
        providers.insert(0, "CUDAExecutionProvider")
    available = set(onnxruntime.get_available_providers())
    try:
        session = onnxruntime.InferenceSession(
            content, options, providers=[name for name in providers if name in available]
        )
        inputs = session.get_inputs()
        declared = session.get_modelmeta().custom_metadata_map
    # UnicodeError: from names in the model, also while onnxruntime builds an error message.
    except (
        *(faults.Fail, faults.InvalidArgument, faults.InvalidGraph, faults.InvalidProtobuf),
        UnicodeError,
    ) as error:
        raise WeightsError(
            f"{path} is not an ONNX model onnxruntime can run: {_first_line(error)}; export it again"
        ) from None
    except (faults.NoSuchFile, faults.NotImplemented, faults.RuntimeException, RuntimeError) as error:
        raise WeightsError(
            f"{path} cannot be run by onnxruntime: {_first_line(error)}; export it again"
        ) from None
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise WeightsError(
            f"{path} takes {[entry.shape for entry in inputs]}, not one batch of images (b, 3, H, W); export a "
            "detection network"
        )
    kind = np.float16 if inputs[0].type == "tensor(float16)" else np.float32
    name = inputs[0].name

    def run(batch: torch.Tensor) -> torch.Tensor:
        try:
            first = session.run(None, {name: batch.cpu().numpy().astype(kind, copy=False)})[0]
        except (
            faults.Fail,
            faults.InvalidArgument,
            faults.RuntimeException,
            RuntimeError,
            UnicodeError,
        ) as error:
            raise _window_refused(path, batch, error) from None
        if not isinstance(first, np.ndarray) or first.dtype.kind not in "fiu":
            raise WeightsError(
                f"{path} puts out {type(first).__name__}, not an array of boxes; export a detector"
            )
        return torch.from_numpy(np.ascontiguousarray(first, dtype=np.float32)).to(batch.device)

    batch, _, height, width = (entry if isinstance(entry, int) else None for entry in inputs[0].shape)
    stride = declared.get("stride", "")
    suppressed = declared.get("end2end") == "True" or bool(_NMS.search(declared.get("args", "")[:100_000]))
    _check_sides(path, batch, height, width)
    return ExportedNetwork(
        run,
        _stride({"stride": int(stride) if stride.isascii() and stride.isdigit() and len(stride) < 6 else 0}),
        batch,
        height,
        width,
        suppressed,
    )


def load_torchscript(path: Path, *, device: torch.device | str) -> ExportedNetwork:
    """Load a TorchScript archive in float32; a trace works only at the size that its export declares.

    Raises:
        WeightsError: the file is not TorchScript, or calls functions other than tensor operators.
    """
    import torch

    load: Any = torch.jit.load
    extra = {"config.txt": ""}  # YOLOv5 and ultralytics write the shape and the stride there
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated in PyTorch
            script = load(check_archive(path), map_location=torch.device(device), _extra_files=extra)
            script = script.float().eval()
    # ValueError includes UnicodeDecodeError from names in the archive.
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is not a TorchScript model: {_first_line(error)}") from None
    stated = _parse_json(path, extra["config.txt"])

    def run(batch: torch.Tensor) -> torch.Tensor:
        try:
            output = script(batch)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise _window_refused(path, batch, error) from None
        while isinstance(output, (tuple, list)) and output:
            output = output[0]
        if not isinstance(output, torch.Tensor):
            raise WeightsError(f"{path} puts out {type(output).__name__}, not an array of boxes")
        return output

    batch, height, width = _traced_shape(stated)
    _check_sides(path, batch, height, width)
    return ExportedNetwork(run, _stride(stated), batch, height, width, _is_suppressed(stated))


def _window_refused(path: Path, batch: torch.Tensor, error: Exception) -> WeightsError:
    _, _, height, width = batch.shape
    last = str(error).strip().splitlines()[-1]
    return WeightsError(
        f"{path} cannot take {len(batch)} tiles of {width} x {height} px ({last}); export it with --dynamic, or "
        "at this size with --imgsz"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check_sides(path: Path, batch: int | None, height: int | None, width: int | None) -> None:
    """Limit fixed batches and sizes: tiles are padded to them, so that they determine memory."""
    for name, value, limit in (("batch", batch, 1024), ("height", height, 16_384), ("width", width, 16_384)):
        if value is not None and not 1 <= value <= limit:
            raise WeightsError(f"{path} takes a {name} of {value}, expected 1 to {limit:,}; export it again")


def _traced_shape(stated: dict[str, Any]) -> tuple[int | None, int | None, int | None]:
    """Return batch, height and width of the trace if the export declares them (YOLOv5 `shape`, ultralytics `imgsz`)."""
    shape, sides, arguments = stated.get("shape"), stated.get("imgsz"), stated.get("args")
    if isinstance(shape, list) and len(shape) == 4 and _are_whole(shape):
        return shape[0], shape[2], shape[3]
    dynamic = stated.get("dynamic") or (isinstance(arguments, dict) and arguments.get("dynamic"))
    batch = stated.get("batch", 1)
    if isinstance(sides, list) and len(sides) == 2 and _are_whole([*sides, batch]) and not dynamic:
        return batch, sides[0], sides[1]
    return None, None, None


def _are_whole(values: list[Any]) -> bool:
    return all(type(value) is int for value in values)


def _stride(stated: dict[str, Any]) -> int:
    stride = stated.get("stride")
    return stride if type(stride) is int and 0 < stride <= 1024 else DEFAULT_STRIDE_PX


def _is_suppressed(stated: dict[str, Any]) -> bool:
    arguments = stated.get("args")
    return bool(stated.get("end2end")) or bool(isinstance(arguments, dict) and arguments.get("nms"))


def _parse_json(path: Path, text: str | bytes) -> dict[str, Any]:
    """Return the metadata of an export; empty if they are not a JSON object."""
    role = FileRole(str(path), "the metadata of a TorchScript archive", "export it again", WeightsError)
    try:
        parsed = parse_json(text, role)
    except WeightsError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
