"""Where a vision transformer's answer comes from: attention rollout, and attention weighted by gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    Score = Callable[[torch.Tensor], torch.Tensor]
    """From vectors (n, d) to one number each."""


def attention_layers(network: torch.nn.Module) -> list[torch.nn.Module]:
    """timm's self-attention layers in the order of the network; none of other networks."""
    return [
        module
        for module in network.modules()
        if hasattr(module, "attn_drop") and hasattr(module, "qkv") and hasattr(module, "fused_attn")
    ]


def attention_rollout(network: torch.nn.Module, seen: torch.Tensor) -> torch.Tensor:
    """(n, h, w) how much of each patch reaches the vector through all layers, whatever the class.

    Abnar and Zuidema 2020, eq. 1: the mean over heads and the identity, half each, multiplied from layer to layer.
    """
    import torch

    with torch.inference_mode(), _attending(network) as layers:
        network(seen)
    tokens = layers[0].shape[-1]
    rolled = torch.eye(tokens).expand(len(seen), tokens, tokens)
    for attention in layers:
        rolled = (0.5 * attention.mean(dim=1) + 0.5 * torch.eye(tokens)) @ rolled
    return _on_grid(network, rolled)


def gradient_attention(network: torch.nn.Module, seen: torch.Tensor, score: Score) -> torch.Tensor:
    """(n, h, w) how much each patch speaks for the score through all layers.

    Chefer et al. 2021 (Generic Attention-model Explainability), eq. 5 and 6: attention times its gradient, what is
    negative cut off, the mean over heads; added up from layer to layer.
    """
    import torch

    with torch.enable_grad(), _attending(network) as layers:
        pixels = seen.detach().clone().requires_grad_()
        value = score(network(pixels))
        slopes = torch.autograd.grad(value.sum(), layers)
    tokens = layers[0].shape[-1]
    identity = torch.eye(tokens)
    relevance = identity.expand(len(seen), tokens, tokens)
    for attention, slope in zip(layers, slopes, strict=True):
        weighed = (attention.detach() * slope).clamp(min=0).mean(dim=1)
        relevance = relevance + weighed @ relevance
    # What a token is for itself stands there from the start and says nothing of the score.
    return _on_grid(network, relevance - identity)


@contextmanager
def _attending(network: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Gathers (n, heads, tokens, tokens) of every layer that is gone through within it."""
    gathered: list[torch.Tensor] = []
    layers: list[Any] = attention_layers(network)
    fused = [layer.fused_attn for layer in layers]
    handles = []
    for layer in layers:
        # Fused attention never writes the weights down.
        layer.fused_attn = False
        handles.append(layer.attn_drop.register_forward_hook(lambda _m, _in, output: gathered.append(output)))
    try:
        yield gathered
    finally:
        for layer, was, handle in zip(layers, fused, handles, strict=True):
            layer.fused_attn = was
            handle.remove()


def _on_grid(network: torch.nn.Module, flow: torch.Tensor) -> torch.Tensor:
    """(n, h, w) of the patches in the rows of what the vector is taken from: the class token, or all patches."""
    prefixes = int(getattr(network, "num_prefix_tokens", 0))
    pooled = str(getattr(network, "global_pool", "token"))
    rows = flow[:, 0] if pooled == "token" and prefixes else flow[:, prefixes:].mean(dim=1)
    patches = rows[:, prefixes:]
    grid: Any = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    height = int(grid[0]) if grid is not None else round(patches.shape[1] ** 0.5)
    return patches.reshape(len(flow), height, -1)
