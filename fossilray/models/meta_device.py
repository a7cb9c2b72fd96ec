"""Size limits of networks, checked on PyTorch's meta device, where tensors have shapes but no memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_MAX_BYTES = 16 * 2**30
"""Limit of parameters and buffers together; the largest networks of timm have 8 GB."""
_MAX_MODULES = 50_000
_MAX_ELEMENTS = 2**29
"""Limit of one intermediate tensor: 2 GB in float32."""
_MAX_TOTAL_ELEMENTS = 2**36
"""Limit of all intermediate tensors of one image, which bounds the time."""

_building = threading.Lock()


class NetworkTooLarge(ValueError):
    """A network exceeds a limit; the text describes which."""


def build_on_meta(build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """Build a network on the meta device, without memory for its weights.

    Raises:
        NetworkTooLarge: its weights or modules exceed a limit. Exceptions of `build` are not caught.
    """
    import torch

    with _building, torch.device("meta"):
        network = build()
    modules = sum(1 for _ in network.modules())
    if modules > _MAX_MODULES:
        raise NetworkTooLarge(f"{modules:,} layers, more than the limit of {_MAX_MODULES:,}")
    size = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))
    if size > _MAX_BYTES:
        raise NetworkTooLarge(
            f"weights of {size / 2**30:,.0f} GB, more than the limit of {_MAX_BYTES // 2**30}"
        )
    return network


def shapes_of(network: torch.nn.Module) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of each tensor in the network's state dict."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def try_on_meta(forward: Callable[[torch.Tensor], Any], *, side_px: int) -> Any:
    """Run a network of `build_on_meta` on one image and return its output, which has a shape but no values.

    Raises:
        NetworkTooLarge: an intermediate tensor, or all of them, exceed a limit. Exceptions of `forward` are not caught.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    mode: Any = TorchDispatchMode

    class Counting(mode):  # type: ignore[misc]
        total = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            output = func(*args, **(kwargs or {}))
            # Views take no memory; fused attention takes only that of its result.
            largest = max((t.numel() for t in tree_leaves(output) if isinstance(t, torch.Tensor)), default=0)
            self.total += largest
            if largest > _MAX_ELEMENTS and not func.is_view:
                raise NetworkTooLarge(f"a tensor of {largest:,} numbers for one image of {side_px} px")
            if self.total > _MAX_TOTAL_ELEMENTS:
                raise NetworkTooLarge(
                    f"more than {_MAX_TOTAL_ELEMENTS:,} numbers for one image of {side_px} px"
                )
            return output

    with torch.inference_mode(), torch.device("meta"), Counting():
        return forward(torch.zeros(1, 3, side_px, side_px, device="meta"))
