"""What a network will hold and move, found on PyTorch's meta device, where tensors have shapes and no memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MOST_BYTES = 16 * 2**30
"""Of parameters and buffers together; the largest networks of timm have 8 GB."""
MOST_MODULES = 50_000
MOST_ELEMENTS = 2**29
"""Of one tensor on the way through a network: 2 GB in float32."""
MOST_ELEMENTS_IN_ALL = 2**36
"""Of all tensors that an image leaves on the way, a measure of time."""

_building = threading.Lock()


class TooMuch(ValueError):
    """A network would hold or move more than is given to it; the text says what."""


def build_on_meta(build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """The network without memory for its numbers.

    Raises:
        TooMuch: with memory for them it would have more than is given to it. What `build` raises passes.
    """
    import torch

    with _building, torch.device("meta"):
        network = build()
    modules = sum(1 for _ in network.modules())
    if modules > MOST_MODULES:
        raise TooMuch(f"{modules:,} layers, and at most {MOST_MODULES:,} are built")
    held = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))
    if held > MOST_BYTES:
        raise TooMuch(f"weights of {held / 2**30:,.0f} GB, and at most {MOST_BYTES // 2**30} are built")
    return network


def shapes_of(network: torch.nn.Module) -> Mapping[str, tuple[int, ...]]:
    """The shape of each tensor in the network's state dict."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def try_on_meta(forward: Callable[[torch.Tensor], Any], *, side_px: int) -> Any:
    """What a network of `build_on_meta` makes of one image, shapes alone.

    Raises:
        TooMuch: one of the tensors on the way, or all of them, would be larger than is given. What it raises passes.
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
            made = func(*args, **(kwargs or {}))
            # Views take no memory; an attention that is fused takes that of its result alone.
            largest = max((t.numel() for t in tree_leaves(made) if isinstance(t, torch.Tensor)), default=0)
            self.total += largest
            if largest > MOST_ELEMENTS and not func.is_view:
                raise TooMuch(f"a tensor of {largest:,} numbers for one image of {side_px} px")
            if self.total > MOST_ELEMENTS_IN_ALL:
                raise TooMuch(f"more than {MOST_ELEMENTS_IN_ALL:,} numbers for one image of {side_px} px")
            return made

    with torch.inference_mode(), torch.device("meta"), Counting():
        return forward(torch.zeros(1, 3, side_px, side_px, device="meta"))
