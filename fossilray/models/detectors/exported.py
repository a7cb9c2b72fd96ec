"""Detectors exported from any framework: ONNX (the only home of onnxruntime) and TorchScript.

This is the road for networks that ultralytics cannot load, the paper's YOLOv5 weights among them; see
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
from fossilray.models.detectors.onnx_model import bound_memory, checked_model
from fossilray.models.detectors.torchscript_source import checked_archive

if TYPE_CHECKING:
    import torch

_NMS = re.compile(r"'nms': ?True")
"""In the export's arguments, which ultralytics writes into a model as Python's text of a dict."""

DEFAULT_STRIDE_PX = 32
"""Coarsest stride of every YOLO with three heads; taken when the export does not state its own."""


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
    content = checked_model(path)
    faults = onnxruntime.capi.onnxruntime_pybind11_state
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what is refused is said by our own errors
    bound_memory(onnxruntime, options)
    providers = ["CPUExecutionProvider"]
    if torch.device(device).type == "cuda":
        providers.insert(0, "CUDAExecutionProvider")
    available = set(onnxruntime.get_available_providers())
    try:
        session = onnxruntime.InferenceSession(
            content, options, providers=[name for name in providers if name in available]
        )
        taken = session.get_inputs()
        stated = session.get_modelmeta().custom_metadata_map
    # UnicodeError: of names in the model, also where onnxruntime would say what is wrong with them.
    except (
        *(faults.Fail, faults.InvalidArgument, faults.InvalidGraph, faults.InvalidProtobuf),
        UnicodeError,
    ) as error:
        raise WeightsError(
            f"{path} is not an ONNX model onnxruntime can run: {_first_line(error)}; export it anew"
        ) from None
    except (faults.NoSuchFile, faults.NotImplemented, faults.RuntimeException, RuntimeError) as error:
        raise WeightsError(
            f"{path} cannot be run by onnxruntime: {_first_line(error)}; export it anew"
        ) from None
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
        except (
            faults.Fail,
            faults.InvalidArgument,
            faults.RuntimeException,
            RuntimeError,
            UnicodeError,
        ) as error:
            raise _refused_window(path, batch, error) from None
        if not isinstance(first, np.ndarray) or first.dtype.kind not in "fiu":
            raise WeightsError(
                f"{path} puts out {type(first).__name__}, not an array of boxes; export a detector"
            )
        return torch.from_numpy(np.ascontiguousarray(first, dtype=np.float32)).to(batch.device)

    batch, _, height, width = (entry if isinstance(entry, int) else None for entry in taken[0].shape)
    stride = stated.get("stride", "")
    suppressed = stated.get("end2end") == "True" or bool(_NMS.search(stated.get("args", "")[:100_000]))
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
            script = load(checked_archive(path), map_location=torch.device(device), _extra_files=extra)
            script = script.float().eval()
    # UnicodeDecodeError and the like: of what the library says of names in the archive.
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is not a TorchScript model: {_first_line(error)}") from None
    stated = _parse_json(path, extra["config.txt"])

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
    _check_sides(path, batch, height, width)
    return ExportedNetwork(run, _stride(stated), batch, height, width, _is_suppressed(stated))


def _refused_window(path: Path, batch: torch.Tensor, error: Exception) -> WeightsError:
    _, _, height, width = batch.shape
    last = str(error).strip().splitlines()[-1]
    return WeightsError(
        f"{path} cannot take {len(batch)} tiles of {width} x {height} px ({last}); export it with --dynamic, or "
        "at this size with --imgsz"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check_sides(path: Path, batch: int | None, height: int | None, width: int | None) -> None:
    """A fixed batch is filled up and tiles are padded to a fixed size: what a file states of them is memory."""
    for what, found, most in (("batch", batch, 1024), ("height", height, 16_384), ("width", width, 16_384)):
        if found is not None and not 1 <= found <= most:
            raise WeightsError(f"{path} takes a {what} of {found}, expected 1 to {most:,}; export it anew")


def _traced_shape(stated: dict[str, Any]) -> tuple[int | None, int | None, int | None]:
    """Batch, height and width of the trace, if the export states them (YOLOv5: `shape`; ultralytics: `imgsz`)."""
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
    """What an export states; nothing where it states it in another form."""
    role = FileRole(str(path), "what a TorchScript states of itself", "export it anew", WeightsError)
    try:
        parsed = parse_json(text, role)
    except WeightsError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
