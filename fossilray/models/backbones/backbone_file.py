"""fossilray's own backbone file: tensors in safetensors, and beside them all it takes to rebuild the network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fossilray.core.errors import WeightsError
from fossilray.core.formats import FileRole
from fossilray.models.backbones.arguments import LARGEST_INPUT_PX
from fossilray.models.backbones.embedder import Interpolation, Preprocessing
from fossilray.models.files.tensors import first_fault, stated_json
from fossilray.models.weights_file import save_half

if TYPE_CHECKING:
    import torch

FORMAT: Literal["fossilray-backbone/1"] = "fossilray-backbone/1"
METADATA_KEY = "fossilray"
"""One key alone: safetensors writes several in no fixed order, and equal weights shall give equal bytes."""


_Mean = Annotated[float, Field(ge=-100, le=100)]
_Deviation = Annotated[float, Field(ge=1e-6, le=1e6)]


class BackboneMeta(BaseModel):
    """What a backbone's weights say of themselves."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal["fossilray-backbone/1"] = FORMAT
    name: str = Field(max_length=500, description="What the embeddings are called.")
    architecture: str = Field(max_length=200, description="timm's name of the network.")
    kwargs: dict[str, Any] = Field(default={}, description="What timm.create_model is told besides.")
    dimension: int = Field(ge=1, le=1_000_000, description="Length of a vector.")
    input_px: int = Field(ge=16, le=LARGEST_INPUT_PX, description="Side of the square it sees.")
    mean: tuple[_Mean, _Mean, _Mean] = Field(description="Subtracted from RGB in 0..1.")
    std: tuple[_Deviation, _Deviation, _Deviation] = Field(description="Divided by afterwards.")
    interpolation: Interpolation = Field(description="How crops of another size are resized.")

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(self.input_px, self.mean, self.std, self.interpolation)


def save_backbone(path: Path, *, state_dict: Mapping[str, torch.Tensor], meta: BackboneMeta) -> None:
    """Write one .safetensors file: kernels in half precision, vectors (norms, biases) in float32.

    Equal arguments give equal bytes.
    """
    stated = json.dumps(meta.model_dump(mode="json"), sort_keys=True)
    save_half(path, state_dict, {METADATA_KEY: stated})


def parse_meta(path: Path, metadata: Mapping[str, str], role: FileRole) -> BackboneMeta | None:
    """What a safetensors file's metadata say of a fossilray backbone; None where they speak of none.

    Raises:
        WeightsError: it is one of ours, of another kind or format.
    """
    stated = stated_json(metadata, METADATA_KEY, role)
    if stated is None:
        return None
    try:
        return BackboneMeta.model_validate_json(stated)
    except ValidationError as error:
        raise WeightsError(
            f"{path} is not a {FORMAT} file ({first_fault(error)}); give embedder.weights a backbone, "
            "not a detector or a file of a later fossilray"
        ) from None
