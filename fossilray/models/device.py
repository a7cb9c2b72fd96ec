"""One road to the device for each thread, so that one thread's copies run while another's network does."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fossilray.core.config.choices import Precision

if TYPE_CHECKING:
    import torch


class DeviceTransfer(threading.local):
    """Each thread that uses it has a CUDA stream and a pinned buffer of its own; on a CPU neither is needed."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._buffer: torch.Tensor | None = None

    def stream(self) -> contextlib.AbstractContextManager[object]:
        """Within it, what is sent to the device goes down this thread's lane."""
        if self._device.type != "cuda":
            return contextlib.nullcontext()
        if self._stream is None:
            make: Any = torch.cuda.Stream
            self._stream = make(self._device)
            # The weights were sent down the default stream, for which no other waits by itself.
            self._stream.wait_stream(torch.cuda.default_stream(self._device))
        return torch.cuda.stream(self._stream)

    def upload(self, tiles: NDArray[np.uint8]) -> torch.Tensor:
        """The bytes on the device; on a CPU possibly the same memory, so they are not to be changed.

        The copy may still be under way. What follows within `stream()` waits for it, and the caller fetches an
        answer that depends on it before it uploads again: until then the buffer is in use.
        """
        plain = torch.from_numpy(np.ascontiguousarray(tiles))
        if self._device.type != "cuda":
            return plain.to(self._device)
        if self._buffer is None or self._buffer.numel() < plain.numel():
            self._buffer = torch.empty(plain.numel(), dtype=torch.uint8, pin_memory=True)
        staged = self._buffer[: plain.numel()].view(plain.shape)
        staged.copy_(plain)
        return staged.to(self._device, non_blocking=True)


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
