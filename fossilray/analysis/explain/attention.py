"""Attention maps of vision transformers: attention rollout and gradient-weighted attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    Score = Callable[[torch.Tensor], torch.Tensor]
    """A differentiable score of vectors: (n, dimension) to (n,)."""


def attention_layers(network: torch.nn.Module) -> list[torch.nn.Module]:
    """Return timm's self-attention layers in the order of the network; an empty list for other networks."""
    return [
        module
        for module in network.modules()
        if hasattr(module, "attn_drop") and hasattr(module, "qkv") and hasattr(module, "fused_attn")
    ]


def attention_rollout(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the attention rollout (n, h, w): how much of each patch reaches the vector, for all classes alike.

    Abnar and Zuidema 2020, eq. 1: half the mean attention over heads plus half the identity, multiplied over layers.
    """
    import torch

    with torch.inference_mode(), _recorded_attention(network) as layers:
        network(images)
    tokens = layers[0].shape[-1]
    rollout = torch.eye(tokens).expand(len(images), tokens, tokens)
    for attention in layers:
        rollout = (0.5 * attention.mean(dim=1) + 0.5 * torch.eye(tokens)) @ rollout
    return _on_grid(network, rollout)


def gradient_attention(network: torch.nn.Module, images: torch.Tensor, score: Score) -> torch.Tensor:
    """Return the relevance (n, h, w) of each patch for the score.

    Chefer et al. 2021 (Generic Attention-model Explainability), eq. 5 and 6: attention times its gradient, clamped at
    0, averaged over heads and accumulated over layers.
    """
    import torch

    with torch.enable_grad(), _recorded_attention(network) as layers:
        pixels = images.detach().clone().requires_grad_()
        value = score(network(pixels))
        gradients = torch.autograd.grad(value.sum(), layers)
    tokens = layers[0].shape[-1]
    identity = torch.eye(tokens)
    relevance = identity.expand(len(images), tokens, tokens)
    for attention, gradient in zip(layers, gradients, strict=True):
        weighted = (attention.detach() * gradient).clamp(min=0).mean(dim=1)
        relevance = relevance + weighted @ relevance
    # The initial identity does not depend on the score.
    return _on_grid(network, relevance - identity)


@contextmanager
def _recorded_attention(network: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Record the attention (n, heads, tokens, tokens) of every layer that runs inside the context."""
    recorded: list[torch.Tensor] = []
    layers: list[Any] = attention_layers(network)
    fused = [layer.fused_attn for layer in layers]
    handles = []
    for layer in layers:
        # Fused attention does not expose its weights.
        layer.fused_attn = False
        handles.append(layer.attn_drop.register_forward_hook(lambda _m, _in, output: recorded.append(output)))
    try:
        yield recorded
    finally:
        for layer, was_fused, handle in zip(layers, fused, handles, strict=True):
            layer.fused_attn = was_fused
            handle.remove()


def _on_grid(network: torch.nn.Module, flow: torch.Tensor) -> torch.Tensor:
    """Return the flow (n, h, w) from patches to what the vector is pooled from: the class token or all patches."""
    prefixes = int(getattr(network, "num_prefix_tokens", 0))
    pooled = str(getattr(network, "global_pool", "token"))
    rows = flow[:, 0] if pooled == "token" and prefixes else flow[:, prefixes:].mean(dim=1)
    patches = rows[:, prefixes:]
    grid: Any = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    height = int(grid[0]) if grid is not None else round(patches.shape[1] ** 0.5)
    return patches.reshape(len(flow), height, -1)
