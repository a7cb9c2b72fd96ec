"""Backbone files: the weights of a timm network and the description from which it is rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from fossilray.core.errors import WeightsError
from fossilray.core.formats import FileRole
from fossilray.models.backbones.arguments import LARGEST_INPUT_PX
from fossilray.models.backbones.embedder import Interpolation, Preprocessing
from fossilray.models.weights_file import WeightsDescription, write_weights

if TYPE_CHECKING:
    import torch

BACKBONE_FORMAT: Literal["fossilray-backbone/1"] = "fossilray-backbone/1"

_Mean = Annotated[float, Field(ge=-100, le=100)]
_Deviation = Annotated[float, Field(ge=1e-6, le=1e6)]


class BackboneMeta(WeightsDescription):
    """Description in a backbone file."""

    formats: ClassVar = (BACKBONE_FORMAT,)

    format: Literal["fossilray-backbone/1"] = BACKBONE_FORMAT
    name: str = Field(max_length=500, description="Name of the embeddings.")
    architecture: str = Field(max_length=200, description="timm's name of the network.")
    kwargs: dict[str, Any] = Field(default={}, description="Further arguments of timm.create_model.")
    dimension: int = Field(ge=1, le=1_000_000, description="Length of an embedding.")
    input_px: int = Field(ge=16, le=LARGEST_INPUT_PX, description="Side of the square input.")
    mean: tuple[_Mean, _Mean, _Mean] = Field(description="Subtracted from RGB in 0..1.")
    std: tuple[_Deviation, _Deviation, _Deviation] = Field(description="Divisor after the subtraction.")
    interpolation: Interpolation = Field(description="Interpolation for crops of another size.")

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(self.input_px, self.mean, self.std, self.interpolation)


def save_backbone(path: Path, *, state_dict: Mapping[str, torch.Tensor], meta: BackboneMeta) -> None:
    """Write a .safetensors file: kernels in float16, vectors (norms, biases) in float32.

    Equal arguments give equal bytes.
    """
    write_weights(path, state_dict, meta)


def backbone_role(path: Path) -> FileRole:
    """Return how messages name a file of backbone weights, of any format."""
    remedy = "fetch or export it again, or set embedder.weights to another file"
    return FileRole(str(path), "backbone weights", remedy, WeightsError)
