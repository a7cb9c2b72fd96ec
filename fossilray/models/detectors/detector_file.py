"""Detector files: the weights of an ultralytics network and the description from which it is rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from fossilray.core.errors import WeightsError
from fossilray.core.formats import FileRole
from fossilray.models.weights_file import METADATA_KEY, WeightsDescription, read_weights, write_weights

if TYPE_CHECKING:
    import torch

DETECTOR_FORMAT = "fossilray-detector/1"


class DetectorMeta(WeightsDescription):
    """Description in a detector file."""

    formats: ClassVar = (DETECTOR_FORMAT,)

    format: str = DETECTOR_FORMAT
    architecture: dict[str, Any] = Field(description="The model as ultralytics reads it from YAML.")
    nc: int = Field(ge=1, le=10_000, description="Number of classes.")
    names: tuple[str, ...] = Field(
        max_length=10_000, description="Class names, in the order of the head's channels."
    )
    stride: int = Field(ge=1, le=1024, description="Coarsest stride of the network in pixels.")
    invert: bool = Field(description="The network was trained on 255 minus the colours.")
    um_per_px: tuple[float, ...] = Field(
        min_length=1, max_length=100, description="Scales that it was trained for."
    )
    smallest_um: float = Field(
        ge=0, description="Longest side of the smallest object that it is meant to find."
    )


def save_detector(path: Path, *, state_dict: Mapping[str, torch.Tensor], meta: DetectorMeta) -> None:
    """Write a .safetensors file: kernels in float16, vectors (norms, biases) in float32.

    Equal arguments give equal bytes.
    """
    write_weights(path, state_dict, meta)


def read_detector(path: Path) -> tuple[dict[str, torch.Tensor], DetectorMeta]:
    """Read the state dict (floats as float32, on the CPU) and the description of a detector file.

    Raises:
        WeightsError: the file is missing, is not safetensors, or is not a detector file of fossilray.
    """
    state, meta = read_weights(path, DetectorMeta, detector_role(path))
    if meta is None:
        raise WeightsError(
            f"{path} is not a fossilray detector: its metadata lack `{METADATA_KEY}`; write it with "
            "pipelines/train_detector.py, or export the model to .onnx"
        )
    return state, meta


def detector_role(path: Path) -> FileRole:
    """Return how messages name a file of detector weights, of any format."""
    return FileRole(str(path), "detector weights", "set detector.weights to another file", WeightsError)
