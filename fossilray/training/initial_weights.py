"""The backbone that a training starts from, and what its file will say of it in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fossilray.core.config import EmbedderConfig
from fossilray.core.config.training import TrainConfig
from fossilray.core.errors import WeightsError
from fossilray.models.backbones.architectures import (
    Architecture,
    build_backbone_network,
    build_filled,
    infer_architecture,
)
from fossilray.models.backbones.backbone_file import BackboneMeta
from fossilray.models.backbones.checkpoints import read_backbone_checkpoint
from fossilray.models.backbones.embedder import Preprocessing
from fossilray.models.backbones.load import load_network, preprocessing_of


@dataclass(frozen=True)
class InitialBackbone:
    """A network to teach: images (n, 3, S, S) in, vectors (n, dimension) out."""

    network: torch.nn.Module
    architecture: Architecture
    dimension: int
    preprocessing: Preprocessing

    def meta(self, *, name: str, input_px: int) -> BackboneMeta:
        """What the finished file says of itself."""
        kwargs = {key: value for key, value in self.architecture.kwargs.items() if key != "dynamic_img_size"}
        if "img_size" in kwargs and input_px != kwargs["img_size"]:
            # Positions are those of the size it learned at, and resampled for another.
            kwargs["dynamic_img_size"] = True
        shown = self.preprocessing
        return BackboneMeta(
            name=name,
            architecture=self.architecture.name,
            kwargs=kwargs,
            dimension=self.dimension,
            input_px=input_px,
            mean=shown.mean,
            std=shown.std,
            interpolation=shown.interpolation,
        )


def start_backbone(config: TrainConfig) -> InitialBackbone:
    """The network of `arch` and `init`; what is not in a file is drawn from torch's global generator.

    ViTs take images of any size, so that local views need no network of their own.

    Raises:
        WeightsError: timm does not know the network, or the weights are of another one (the message names keys).
    """
    source, _, rest = config.init.partition(":")
    if source == "scratch":
        return _measured(_sized(config.arch or "", config), {}, config)
    if source == "timm":
        if config.arch not in (None, rest):
            raise WeightsError(f"init={config.init} brings its own network; leave arch={config.arch} out")
        network, _, shown = load_network(EmbedderConfig(weights=config.init, input_px=config.input_px))
        return _measured(_sized(rest, config), network.state_dict(), config, shown)
    path = Path(rest).expanduser()
    state, meta = read_backbone_checkpoint(path)
    stated = None if meta is None else meta.preprocessing
    if config.arch is not None:
        architecture = _sized(config.arch, config)
    elif meta is not None:
        architecture = _sized(meta.architecture, config, meta.kwargs)
    else:
        inferred = infer_architecture(state)
        if inferred is None:
            raise WeightsError(
                f"{path} is no plain ViT, ResNet or EfficientNet-Lite by its keys (the first: "
                f"{', '.join(list(state)[:3])}); set arch to its timm name"
            )
        architecture = _sized(inferred.name, config, inferred.kwargs)
    return _measured(architecture, state, config, stated, source=str(path))


def _sized(name: str, config: TrainConfig, kwargs: dict[str, object] | None = None) -> Architecture:
    asked = {**(kwargs or {}), **config.arch_kwargs}
    if name.startswith(("vit_", "deit_", "eva", "beit")):
        asked |= {"img_size": config.input_px, "dynamic_img_size": True}
    return Architecture(name, config.input_px, asked)


def _measured(
    architecture: Architecture,
    state: dict[str, torch.Tensor],
    config: TrainConfig,
    shown: Preprocessing | None = None,
    *,
    source: str = "",
) -> InitialBackbone:
    network = (
        build_filled(architecture, state, source=source or config.init)
        if state
        else build_backbone_network(architecture)
    )
    shown = shown or preprocessing_of(architecture)
    if config.method == "metric" and config.metric.dimension is not None:
        architecture = _with_last_layer(network, architecture, config.metric.dimension)
    half = config.method == "transfer" and config.transfer.layers == "deep_half"
    freeze_first(network, max(config.frozen_stages, count_stages(network) // 2 if half else 0))
    network.eval()
    with torch.inference_mode():
        probe = network(torch.zeros(1, 3, config.input_px, config.input_px))
    if probe.ndim != 2:
        raise WeightsError(
            f"{architecture.name} gives {tuple(probe.shape)} values for one image, not a vector"
        )
    return InitialBackbone(
        network, architecture, int(probe.shape[1]), replace(shown, size_px=config.input_px)
    )


def _with_last_layer(network: torch.nn.Module, architecture: Architecture, dimension: int) -> Architecture:
    """Give a timm network a new last layer of this length, drawn from torch's global generator."""
    described: Any = network
    described.reset_classifier(dimension)
    return replace(architecture, kwargs={**architecture.kwargs, "num_classes": dimension})


def count_stages(network: torch.nn.Module) -> int:
    """Stages of a network, the stem being one, as timm groups its layers."""
    from timm.models import group_parameters

    described: Any = network
    return len(group_parameters(network, described.group_matcher(coarse=True)))


def freeze_first(network: torch.nn.Module, stages: int) -> None:
    """Keep the first so many stages (timm's layer groups, the stem is one) as they are: weights and norms alike.

    Raises:
        WeightsError: the network has no more stages than these.
    """
    if not stages:
        return
    from timm.layers.norm_act import freeze_batch_norm_2d
    from timm.models import group_modules, group_parameters

    described: Any = network
    matcher = described.group_matcher(coarse=True)
    parameters: Mapping[int, Sequence[str]] = group_parameters(network, matcher)
    if stages >= len(parameters):
        raise WeightsError(
            f"frozen_stages={stages} leaves nothing to learn of a network of {len(parameters)} stages; give fewer"
        )
    modules: Mapping[int, Sequence[str]] = group_modules(network, matcher)
    for stage in range(stages):
        for name in parameters[stage]:
            network.get_parameter(name).requires_grad_(False)
        for name in modules.get(stage, ()):
            # Norms over the batch would go on counting; frozen ones have what they counted for constants.
            network.set_submodule(name, freeze_batch_norm_2d(network.get_submodule(name)))  # type: ignore[no-untyped-call]
