"""A running average of a network's weights: a teacher, a target, or simply steadier weights."""

from __future__ import annotations

import copy

import torch


def frozen_copy(network: torch.nn.Module) -> torch.nn.Module:
    """A copy that wants no gradients."""
    copied = copy.deepcopy(network)
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    return copied


@torch.no_grad()
def update_moving_average(average: torch.nn.Module, network: torch.nn.Module, *, keep: float) -> None:
    """average = keep * average + (1 - keep) * network, buffers included; counts are copied."""
    mine, other = average.state_dict(), network.state_dict()
    floats = [name for name, tensor in mine.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([mine[name] for name in floats], [other[name] for name in floats], 1 - keep)
    for name in mine.keys() - set(floats):
        mine[name].copy_(other[name])
