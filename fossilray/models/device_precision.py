"""In which numbers a network is run: half of float32's bits where the device multiplies them natively."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "float32"]


def precision_on(device: torch.device | str, precision: Precision) -> torch.dtype:
    """bfloat16 where `precision` is auto and the device multiplies it natively, else float32.

    A GPU older than bfloat16 (before NVIDIA's Ampere) gets float16 under auto.
    """
    import torch

    if precision == "float32":
        return torch.float32
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    # Emulated, it would be slower than float32. Older PyTorch does not tell what a processor can do.
    tell: Callable[[], dict[str, object]] = getattr(torch.cpu, "get_capabilities", dict)
    can = tell()
    return torch.bfloat16 if can.get("avx512_bf16") or can.get("amx_bf16") else torch.float32
