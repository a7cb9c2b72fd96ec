"""Optimisation of a trained network for inference on its device; outputs change by rounding only."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_CPU_PIXELS = 2**19
"""Input pixels per forward pass on a CPU: 10 crops of 224 px, 56 of 96 px.

Larger batches exceed the caches and allocate memory at every layer; smaller ones make the matrix products too small.
Measured with benchmarks/inference.py.
"""


_SAME = 0.99999
"""Lower bound of the cosine similarity in float32 if outputs differ by rounding only."""


def optimise_for_inference(
    network: torch.nn.Module, *, side_px: int, device: torch.device, dtype: torch.dtype
) -> torch.nn.Module:
    """Return the network in eval mode on the device, converted to `dtype`; the argument may be modified.

    Batch norms that cannot be folded into a convolution stay in float32, because their variances may exceed the range
    of half precision; other norms accumulate in float32 in any case.
    """
    import torch

    network = _fold_norms(network.eval().requires_grad_(False), side_px=side_px)
    network = network.to(device, dtype).to(memory_format=torch.channels_last)
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.float()
        # PyTorch's fused attention widens bfloat16 to float32 on a CPU: plain products take half its time there.
        if device.type == "cpu" and dtype == torch.bfloat16 and hasattr(module, "fused_attn"):
            # A flag of timm's attention layers.
            switch: Any = module
            switch.fused_attn = False
    return network


def forward_size(device: torch.device, *, batch: int, side_px: int) -> int:
    """Return the number of images per forward pass: `batch` on a GPU, limited by the caches on a CPU."""
    if device.type != "cpu":
        return batch
    return max(1, min(batch, _CPU_PIXELS // side_px**2))


def _fold_norms(network: torch.nn.Module, *, side_px: int) -> torch.nn.Module:
    """Return a copy with batch norms folded into the convolutions before them, or the network if that fails."""
    import torch
    from torch.fx.experimental.optimization import fuse

    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    if not norms:
        return network
    # torch.fx does not fold timm's norms that include an activation.
    plain = any(type(norm) is torch.nn.BatchNorm2d for norm in norms)
    try:
        folded = (fuse(network) if plain else _fold_neighbours(network)).eval().requires_grad_(False)
    # A network with data-dependent control flow cannot be traced; the exception depends on the network.
    except (torch.fx.proxy.TraceError, TypeError, ValueError, RuntimeError, NotImplementedError):
        return network
    noise = torch.randn(2, 3, side_px, side_px, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, actual = network(noise), folded(noise)
    # A layer that is used twice in a network is folded twice, which only the output shows.
    same = torch.nn.functional.cosine_similarity(actual, expected).min() > _SAME
    return folded if same else network


def _fold_neighbours(network: torch.nn.Module) -> torch.nn.Module:
    """Return a copy in which every timm norm is folded into the convolution registered directly before it."""
    import torch
    from timm.layers.norm_act import BatchNormAct2d
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    folded = copy.deepcopy(network).eval()
    for parent in list(folded.modules()):
        children = list(parent.named_children())
        for (first, convolution), (second, norm) in pairwise(children):
            if (
                isinstance(convolution, torch.nn.Conv2d)
                and isinstance(norm, BatchNormAct2d)
                and convolution.out_channels == norm.num_features
            ):
                setattr(parent, first, fuse_conv_bn_eval(convolution, norm))
                setattr(parent, second, torch.nn.Sequential(norm.drop, norm.act))
    return folded
