"""Maps of convolutional networks: Grad-CAM, guided Grad-CAM and feature maps.

Not taken from a library, because pytorch-grad-cam installs a second OpenCV that overwrites the first and guides only
plain ReLU, which EfficientNet-Lite (ReLU6) and most newer networks do not have, and captum requires NumPy 1. A test
compares with the published identity with CAM, and with pytorch-grad-cam if it is installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from fossilray.analysis.explain.attention import Score

_ACTIVATIONS = (
    *("ReLU", "ReLU6", "LeakyReLU", "PReLU", "ELU", "GELU", "GELUTanh", "QuickGELU", "SiLU", "Swish", "Mish"),
    *("Hardswish", "HardSwish", "HardMish"),
)
"""Class names of rectifiers and smooth activations in PyTorch and timm. Gates such as sigmoid are not activations."""


@dataclass(frozen=True)
class FeatureMaps:
    """Feature maps of one stage of a network for one crop."""

    module: str
    channels: tuple[int, ...]
    """The k channels that are shown, those of highest standard deviation first."""
    channel_count: int
    """Channels of the stage."""
    maps: torch.Tensor
    """(k, h, w), each scaled to 0..1 over its own range."""


def grad_cam(network: torch.nn.Module, images: torch.Tensor, score: Score) -> torch.Tensor:
    """Return Grad-CAM (n, h, w) on the grid of the last feature maps.

    Selvaraju et al. 2017, eq. 1 and 2: the sum of feature maps weighted by their mean gradients, clamped at 0.
    """
    import torch

    with torch.enable_grad():
        features: Any = network.forward_features(images)  # type: ignore[operator]
        features = features.detach().requires_grad_()
        value = score(network.forward_head(features))  # type: ignore[operator]
        (gradient,) = torch.autograd.grad(value.sum(), features)
    maps, gradient = _channels_first(network, features.detach()), _channels_first(network, gradient)
    heat: torch.Tensor = (gradient.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1).clamp(min=0)
    return heat


def guided_gradient(network: torch.nn.Module, images: torch.Tensor, score: Score) -> torch.Tensor:
    """Return the guided gradient (n, 3, S, S) of the score at the input.

    Springenberg et al. 2015, section 3.4: gradients are clamped at 0 behind every activation. A smooth activation
    passes its own derivative instead of a step.
    """
    import torch

    with torch.enable_grad(), _guided(network):
        pixels = images.detach().clone().requires_grad_()
        value = score(network(pixels))
        (gradient,) = torch.autograd.grad(value.sum(), pixels)
    return gradient


def guided_grad_cam(network: torch.nn.Module, images: torch.Tensor, score: Score) -> torch.Tensor:
    """Return guided Grad-CAM (n, S, S).

    Selvaraju et al. 2017, section 3.2: the product of interpolated Grad-CAM and the guided gradient, here its norm over
    R, G and B.
    """
    import torch.nn.functional as F

    coarse = grad_cam(network, images, score)[:, None]
    region = F.interpolate(coarse, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    strength: torch.Tensor = guided_gradient(network, images, score).norm(dim=1)
    return strength * region


def feature_maps(
    network: torch.nn.Module, images: torch.Tensor, *, stages: int = 3, channels: int = 16
) -> list[list[FeatureMaps]]:
    """Return for each crop the feature maps of `stages` stages, from fine to coarse.

    Shown are the `channels` channels of highest standard deviation over the crop.
    """
    import torch

    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: torch.nn.Module, _input: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.ndim == 4:
                outputs[name] = _channels_first(network, output)

        return hook

    names = _stages(network, stages)
    handles = [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        with torch.inference_mode():
            last: Any = network.forward_features(images)  # type: ignore[operator]
    finally:
        for registered in handles:
            registered.remove()
    # The vector is pooled from the output of the last layer, which may come after the last stage.
    layers = [(name, outputs[name]) for name in names[: stages - 1] if name in outputs]
    layers.append(("last", _channels_first(network, last)))
    return [
        [_select_channels(name, layer[row], channels) for name, layer in layers] for row in range(len(images))
    ]


def _stages(network: torch.nn.Module, count: int) -> list[str]:
    """Return `count` modules, evenly spaced among those that timm lists as ends of stages."""
    info: Any = getattr(network, "feature_info", None)
    entries: Sequence[Any] = getattr(info, "info", info) or ()
    known = dict(network.named_modules())
    names = [entry["module"] for entry in entries if isinstance(entry, dict) and entry.get("module") in known]
    if len(names) <= count:
        return names
    return [names[round(position * (len(names) - 1) / (count - 1))] for position in range(count)]


def _select_channels(name: str, maps: torch.Tensor, count: int) -> FeatureMaps:
    import torch

    flat = maps.flatten(1)
    chosen = torch.argsort(flat.std(dim=1, correction=0), descending=True, stable=True)[:count]
    shown = maps[chosen]
    low, high = shown.amin(dim=(1, 2), keepdim=True), shown.amax(dim=(1, 2), keepdim=True)
    return FeatureMaps(name, tuple(chosen.tolist()), len(maps), (shown - low) / (high - low).clamp(min=1e-12))


def _channels_first(network: torch.nn.Module, maps: torch.Tensor) -> torch.Tensor:
    return maps.permute(0, 3, 1, 2) if str(getattr(network, "output_fmt", "NCHW")) == "NHWC" else maps


@contextmanager
def _guided(network: torch.nn.Module) -> Iterator[None]:
    """Clamp gradients at the outputs of activations at 0 inside the context."""
    import torch

    def guide(_module: torch.nn.Module, _input: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.requires_grad:
            register: Any = output.register_hook
            register(lambda gradient: gradient.clamp(min=0))

    handles = [
        module.register_forward_hook(guide)
        for module in network.modules()
        if type(module).__name__ in _ACTIVATIONS
    ]
    try:
        yield
    finally:
        for registered in handles:
            registered.remove()
