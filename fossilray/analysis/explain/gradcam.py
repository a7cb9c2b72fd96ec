"""What a convolutional network's answer comes from: Grad-CAM, guided Grad-CAM, and its maps of features.

Written here rather than taken from a library: pytorch-grad-cam brings a second OpenCV that overwrites the first, and
guides plain ReLU alone, of which EfficientNet-Lite (ReLU6) and most newer networks have none; captum wants NumPy 1.
A test holds the mathematics against the published identity with CAM, and against pytorch-grad-cam where it is there.
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
"""Class names of rectifiers and their smooth relatives, PyTorch's and timm's; gates (sigmoid) are none."""


@dataclass(frozen=True)
class FeatureMaps:
    """The maps of one stage of a network for one crop."""

    module: str
    channels: tuple[int, ...]
    """Those shown, the most varied first."""
    of: int
    """How many the stage has."""
    maps: torch.Tensor
    """(k, h, w) of the channels shown, each from 0 to 1 over its own range."""


def grad_cam(network: torch.nn.Module, seen: torch.Tensor, score: Score) -> torch.Tensor:
    """(n, h, w) where the last feature maps speak for the score, 0 where nothing does; on the maps' own grid.

    Selvaraju et al. 2017, eq. 1 and 2: each map weighs what the score gains by it on average over the grid, and what
    speaks against the score is cut off.
    """
    import torch

    with torch.enable_grad():
        features: Any = network.forward_features(seen)  # type: ignore[operator]
        features = features.detach().requires_grad_()
        value = score(network.forward_head(features))  # type: ignore[operator]
        (slope,) = torch.autograd.grad(value.sum(), features)
    maps, slope = _channels_first(network, features.detach()), _channels_first(network, slope)
    found: torch.Tensor = (slope.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1).clamp(min=0)
    return found


def guided_gradient(network: torch.nn.Module, seen: torch.Tensor, score: Score) -> torch.Tensor:
    """(n, 3, S, S) the score's gradient at the input, with what is negative cut off behind every activation.

    Springenberg et al. 2015, section 3.4. For smooth activations their own slope stands where a ReLU's step would.
    """
    import torch

    with torch.enable_grad(), _guided(network):
        pixels = seen.detach().clone().requires_grad_()
        value = score(network(pixels))
        (slope,) = torch.autograd.grad(value.sum(), pixels)
    return slope


def guided_grad_cam(network: torch.nn.Module, seen: torch.Tensor, score: Score) -> torch.Tensor:
    """(n, S, S) how strongly each pixel speaks for the score: the guided gradient within Grad-CAM's region.

    Selvaraju et al. 2017, section 3.2: the pointwise product, Grad-CAM interpolated; here its length over R, G, B.
    """
    import torch.nn.functional as F

    coarse = grad_cam(network, seen, score)[:, None]
    region = F.interpolate(coarse, seen.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    strength: torch.Tensor = guided_gradient(network, seen, score).norm(dim=1)
    return strength * region


def feature_maps(
    network: torch.nn.Module, seen: torch.Tensor, *, stages: int = 3, channels: int = 16
) -> list[list[FeatureMaps]]:
    """For each crop its feature maps at some stages, fine to coarse: the channels that vary most over the crop."""
    import torch

    found: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: torch.nn.Module, _given: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.ndim == 4:
                found[name] = _channels_first(network, output)

        return hook

    names = _stages(network, stages)
    handles = [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        with torch.inference_mode():
            last: Any = network.forward_features(seen)  # type: ignore[operator]
    finally:
        for handle in handles:
            handle.remove()
    # What stands behind the last stage (a last convolution) is what the vector is pooled from.
    layers = [(name, found[name]) for name in names[: stages - 1] if name in found]
    layers.append(("last", _channels_first(network, last)))
    return [[_pick(name, layer[row], channels) for name, layer in layers] for row in range(len(seen))]


def _stages(network: torch.nn.Module, count: int) -> list[str]:
    """Modules spread from the first to the last of those that timm names as ends of stages."""
    info: Any = getattr(network, "feature_info", None)
    entries: Sequence[Any] = getattr(info, "info", info) or ()
    known = dict(network.named_modules())
    names = [one["module"] for one in entries if isinstance(one, dict) and one.get("module") in known]
    if len(names) <= count:
        return names
    return [names[round(place * (len(names) - 1) / (count - 1))] for place in range(count)]


def _pick(name: str, maps: torch.Tensor, count: int) -> FeatureMaps:
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
    """Within it, gradients that come back to an activation's output lose what is negative."""
    import torch

    def guide(_module: torch.nn.Module, _given: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.requires_grad:
            register: Any = output.register_hook
            register(lambda slope: slope.clamp(min=0))

    handles = [
        module.register_forward_hook(guide)
        for module in network.modules()
        if type(module).__name__ in _ACTIVATIONS
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
