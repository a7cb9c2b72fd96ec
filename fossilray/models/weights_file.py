"""Files of weights: tensors in safetensors with a JSON description beside them, and the weights of the package.

Detectors, backbones and heads are stored alike and differ in their descriptions: `detectors/detector_file.py`,
`backbones/backbone_file.py` and `heads/head_file.py` hold the schemas. A file is checked before it is believed:
`models/files` bounds the header, the tensors and the JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fossilray.core.atomic_files import write_atomically
from fossilray.core.formats.file_role import FileRole
from fossilray.core.formats.json_text import parse_json
from fossilray.core.formats.plain_values import shown
from fossilray.models.files.open_weights import open_weights
from fossilray.models.files.tensors import (
    first_validation_error,
    read_arrays,
    read_tensor_metadata,
    read_tensors,
)

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

METADATA_KEY = "fossilray"
"""The only metadata key: safetensors writes several in no fixed order, and equal weights must give equal bytes."""


class WeightsDescription(BaseModel):
    """Base of the descriptions; each has a field `format`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    formats: ClassVar[tuple[str, ...]] = ()
    """The values of `format` that this fossilray reads."""


Description = TypeVar("Description", bound=WeightsDescription)


def write_weights(path: Path, tensors: Mapping[str, torch.Tensor], description: WeightsDescription) -> None:
    """Write tensors and their description: kernels in float16, vectors (norms, biases) in float32.

    Equal arguments give equal bytes.

    Raises:
        UsageError: the file cannot be written.
    """
    from safetensors.torch import save

    packed = {name: _pack(tensor) for name, tensor in sorted(tensors.items())}
    write_atomically(path, save(packed, _metadata(description)))


def write_weight_arrays(
    path: Path, arrays: Mapping[str, NDArray[Any]], description: WeightsDescription
) -> None:
    """Write arrays, in the dtypes they have, and their description; equal arguments give equal bytes.

    Raises:
        UsageError: the file cannot be written.
    """
    import numpy as np
    from safetensors.numpy import save

    ordered = {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}
    write_atomically(path, save(ordered, _metadata(description)))


def read_weights(
    path: Path, schema: type[Description], role: FileRole
) -> tuple[dict[str, torch.Tensor], Description | None]:
    """Read the tensors (on the CPU, floats as float32) and the description; None if the file has none.

    Raises:
        role.error: the file is missing, damaged, or described by another schema.
    """
    tensors, metadata = read_tensors(path, role)
    return tensors, _parse(metadata, schema, role)


def read_weight_arrays(
    path: Path, schema: type[Description], role: FileRole
) -> tuple[dict[str, NDArray[Any]], Description | None]:
    """Read the arrays (in the dtypes of the file) and the description; None if the file has none.

    Raises:
        role.error: as read_weights.
    """
    arrays, metadata = read_arrays(path, role)
    return arrays, _parse(metadata, schema, role)


def read_description(path: Path, schema: type[Description], role: FileRole) -> Description | None:
    """Read the description without the tensors; None if the file has none.

    Raises:
        role.error: as read_weights.
    """
    return _parse(read_tensor_metadata(path, role), schema, role)


def weights_digest(path: Path, role: FileRole) -> str:
    """Return the sha256 of a weight file, in hexadecimal.

    Raises:
        role.error: the file is missing, is not a regular file, or cannot be read.
    """
    digest = hashlib.sha256()
    with open_weights(path, role) as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def bundled_weights(kind: Literal["detector", "backbone"]) -> Path:
    """Return the path of the weights that are installed with the package."""
    return Path(str(resources.files("fossilray.models") / "weights" / f"{kind}.safetensors"))


def _metadata(description: WeightsDescription) -> dict[str, str]:
    fields = description.model_dump(mode="json", exclude_none=True, by_alias=True)
    return {METADATA_KEY: json.dumps(fields, sort_keys=True, ensure_ascii=False)}


def _parse(metadata: Mapping[str, str], schema: type[Description], role: FileRole) -> Description | None:
    if METADATA_KEY not in metadata:
        return None
    fields = parse_json(metadata[METADATA_KEY], role)
    format_found = fields.get("format", schema.formats[0]) if isinstance(fields, dict) else None
    if format_found not in schema.formats:
        raise role.damaged(
            f"it is of format {shown(format_found)}, not {' or '.join(schema.formats)}: it holds something else, or a "
            "later fossilray wrote it"
        )
    try:
        return schema.model_validate_json(metadata[METADATA_KEY])
    except ValidationError as error:
        raise role.damaged(f"its description is damaged ({first_validation_error(error)})") from None


def _pack(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    tensor = tensor.detach().to("cpu")
    if tensor.is_floating_point():
        # The running variance of a norm may exceed the range of float16, and vectors take hardly any space.
        tensor = tensor.to(torch.float16 if tensor.ndim > 1 else torch.float32)
    return tensor.clone(memory_format=torch.contiguous_format)
