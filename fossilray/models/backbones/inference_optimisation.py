"""A trained network changed into the form its device runs fastest, its vectors the same but for rounding."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

CPU_PIXELS = 2**19
"""Input pixels of one forward pass on a CPU: 10 crops of 224 px, 56 of 96 px.

More leave the caches and ask the system for fresh memory at every layer; fewer leave the multiplications too small.
Measured with benchmarks/inference.py --sweep.
"""


_SAME = 0.99999
"""Cosine similarity in float32 that rounding alone does not go below."""


def optimise_for_inference(
    network: torch.nn.Module, *, side_px: int, device: torch.device, dtype: torch.dtype
) -> torch.nn.Module:
    """The network in eval mode on the device, converted once to `dtype`; the one given may be changed.

    Norms over a batch that no convolution can take in stay in float32, for their variances may leave half
    precision's range; other norms add up in float32 whatever their weights are.
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
    """Images a forward pass should take: on a GPU `batch`, on a CPU no more than the caches like."""
    if device.type != "cpu":
        return batch
    return max(1, min(batch, CPU_PIXELS // side_px**2))


def _fold_norms(network: torch.nn.Module, *, side_px: int) -> torch.nn.Module:
    """A copy whose convolutions do the work of the batch norms behind them; as given where that cannot be seen."""
    import torch
    from torch.fx.experimental.optimization import fuse

    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    if not norms:
        return network
    # timm's norms that also activate are not among what torch.fx folds.
    plain = any(type(norm) is torch.nn.BatchNorm2d for norm in norms)
    try:
        folded = (fuse(network) if plain else _fold_neighbours(network)).eval().requires_grad_(False)
    # A network that decides by what it sees cannot be followed; how it says so is up to it.
    except (torch.fx.proxy.TraceError, TypeError, ValueError, RuntimeError, NotImplementedError):
        return network
    noise = torch.randn(2, 3, side_px, side_px, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = network(noise), folded(noise)
    # A layer that stands at two places in a network is folded twice; nothing else shows it.
    same = torch.nn.functional.cosine_similarity(found, expected).min() > _SAME
    return folded if same else network


def _fold_neighbours(network: torch.nn.Module) -> torch.nn.Module:
    """A copy in which every convolution has taken in the timm norm registered right after it."""
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
