"""Transfers to a device per thread, so that copies overlap with computation, and the precision of a device."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config.choices import Precision

if TYPE_CHECKING:
    import torch


class DeviceTransfer(threading.local):
    """A CUDA stream and a pinned buffer for each thread that uses it; on a CPU neither is needed."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._buffer: torch.Tensor | None = None

    def stream(self) -> contextlib.AbstractContextManager[object]:
        """Return a context in which this thread's CUDA work goes to its own stream."""
        import torch

        if self._device.type != "cuda":
            return contextlib.nullcontext()
        if self._stream is None:
            stream_class: Any = torch.cuda.Stream
            self._stream = stream_class(self._device)
            # The weights were copied on the default stream, for which other streams do not wait.
            self._stream.wait_stream(torch.cuda.default_stream(self._device))
        return torch.cuda.stream(self._stream)

    def upload(self, tiles: NDArray[np.uint8]) -> torch.Tensor:
        """Copy tiles (uint8) to the device; on a CPU the result may share their memory and must not be changed.

        The copy is asynchronous. Later work within `stream()` waits for it. The caller must fetch a result that depends
        on it before the next upload, because the buffer is in use until then.
        """
        import torch

        plain = torch.from_numpy(np.ascontiguousarray(tiles))
        if self._device.type != "cuda":
            return plain.to(self._device)
        if self._buffer is None or self._buffer.numel() < plain.numel():
            self._buffer = torch.empty(plain.numel(), dtype=torch.uint8, pin_memory=True)
        staged = self._buffer[: plain.numel()].view(plain.shape)
        staged.copy_(plain)
        return staged.to(self._device, non_blocking=True)


def precision_on(device: torch.device | str, precision: Precision) -> torch.dtype:
    """Return bfloat16 if `precision` is auto and the device multiplies it natively, else float32.

    For auto, a GPU without bfloat16 (before NVIDIA's Ampere) gets float16.
    """
    import torch

    if precision == "float32":
        return torch.float32
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    # Emulated bfloat16 is slower than float32. Older PyTorch does not report the features of the processor.
    get_capabilities: Callable[[], dict[str, object]] = getattr(torch.cpu, "get_capabilities", dict)
    features = get_capabilities()
    return torch.bfloat16 if features.get("avx512_bf16") or features.get("amx_bf16") else torch.float32
