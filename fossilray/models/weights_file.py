"""Weights as small files: what the bundled detector and the bundled backbone are both written by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fossilray.core.whole_files import write_whole

if TYPE_CHECKING:
    import torch


def save_half(path: Path, state_dict: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write one .safetensors file: kernels in half precision, vectors (norms, biases) in float32.

    Equal arguments give equal bytes.
    """
    from safetensors.torch import save

    write_whole(
        path, save({name: _pack(tensor) for name, tensor in sorted(state_dict.items())}, dict(metadata))
    )


def _pack(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    tensor = tensor.detach().to("cpu")
    if tensor.is_floating_point():
        # A norm's running variance may leave float16's range, and vectors weigh next to nothing.
        tensor = tensor.to(torch.float16 if tensor.ndim > 1 else torch.float32)
    return tensor.clone(memory_format=torch.contiguous_format)
