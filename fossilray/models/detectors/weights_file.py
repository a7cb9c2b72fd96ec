"""fossilray's own detector file: tensors in safetensors, and beside them all it takes to rebuild the network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fossilray.core.errors import WeightsError
from fossilray.core.formats import FileRole
from fossilray.core.formats.plain_values import shown
from fossilray.models.files.tensors import first_fault, read_tensors, stated_json
from fossilray.models.weights_file import save_half

if TYPE_CHECKING:
    import torch

FORMAT = "fossilray-detector/1"
METADATA_KEY = "fossilray"
"""One key alone: safetensors writes several in no fixed order, and equal weights shall give equal bytes."""


class DetectorMeta(BaseModel):
    """What a detector's weights say of themselves."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: str = FORMAT
    architecture: dict[str, Any] = Field(description="The model as ultralytics reads it from YAML.")
    nc: int = Field(ge=1, le=10_000, description="Number of classes.")
    names: tuple[str, ...] = Field(
        max_length=10_000, description="Class names, in the order of the head's channels."
    )
    stride: int = Field(ge=1, le=1024, description="Coarsest stride of the network in pixels.")
    invert: bool = Field(description="The network was trained on 255 minus the colours.")
    um_per_px: tuple[float, ...] = Field(
        min_length=1, max_length=100, description="Scales it was trained for."
    )
    smallest_um: float = Field(ge=0, description="Longest side of the smallest object it is meant to find.")


def save_weights(path: Path, *, state_dict: Mapping[str, torch.Tensor], meta: DetectorMeta) -> None:
    """Write one .safetensors file: kernels in half precision, vectors (norms, biases) in float32.

    Equal arguments give equal bytes.
    """
    stated = json.dumps(meta.model_dump(mode="json"), sort_keys=True)
    save_half(path, state_dict, {METADATA_KEY: stated})


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], DetectorMeta]:
    """The state dict (floats as float32, on CPU) and what the file says of itself.

    Raises:
        WeightsError: the file is missing, not safetensors, or not a fossilray detector.
    """
    role = FileRole(str(path), "detector weights", "set detector.weights to another file", WeightsError)
    if not path.is_file():
        raise WeightsError(f"detector weights {path} do not exist; set detector.weights")
    state, metadata = read_tensors(path, role)
    return state, _parse_meta(path, metadata, role)


def _parse_meta(path: Path, metadata: Mapping[str, str], role: FileRole) -> DetectorMeta:
    stated = stated_json(metadata, METADATA_KEY, role)
    if stated is None:
        raise WeightsError(
            f"{path} is no fossilray detector: its metadata lack `{METADATA_KEY}`; "
            "write it with pipelines/train_detector.py, or export the model to .onnx"
        )
    try:
        meta = DetectorMeta.model_validate_json(stated)
    except ValidationError as error:
        raise role.damaged(f"its metadata are damaged ({first_fault(error)})") from None
    if meta.format != FORMAT:
        raise WeightsError(
            f"{path} is of format {shown(meta.format)}, and this fossilray reads {FORMAT!r}; set detector.weights to "
            "another file, or take the fossilray that wrote it"
        )
    return meta
