"""The backbone that a training starts from."""

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
    build_with_weights,
    infer_architecture,
)
from fossilray.models.backbones.backbone_file import BackboneMeta
from fossilray.models.backbones.checkpoints import read_backbone_checkpoint
from fossilray.models.backbones.embedder import Preprocessing
from fossilray.models.backbones.load import load_network, preprocessing_of
from fossilray.models.weights_file import bundled_weights


@dataclass(frozen=True)
class InitialBackbone:
    """A network to train: images (n, 3, S, S) in, vectors (n, dimension) out."""

    network: torch.nn.Module
    architecture: Architecture
    dimension: int
    preprocessing: Preprocessing

    def meta(self, *, name: str, input_px: int) -> BackboneMeta:
        """Return the metadata of the finished backbone file."""
        kwargs = {key: value for key, value in self.architecture.kwargs.items() if key != "dynamic_img_size"}
        if "img_size" in kwargs and input_px != kwargs["img_size"]:
            # Position embeddings belong to the training size, and are resampled for another.
            kwargs["dynamic_img_size"] = True
        preprocessing = self.preprocessing
        return BackboneMeta(
            name=name,
            architecture=self.architecture.name,
            kwargs=kwargs,
            dimension=self.dimension,
            input_px=input_px,
            mean=preprocessing.mean,
            std=preprocessing.std,
            interpolation=preprocessing.interpolation,
        )


def start_backbone(config: TrainConfig) -> InitialBackbone:
    """Build the network of `arch` with the weights of `init`.

    Layers without stored weights are initialised from torch's global generator. ViTs are built for images of any
    size, so that local views use the same network.

    Raises:
        WeightsError: timm does not have the network, or the weights are those of another one (the message names keys).
    """
    source, _, rest = config.init.partition(":")
    if source == "scratch":
        return _build(_sized(config.arch or "", config), {}, config)
    if source == "timm":
        if config.arch not in (None, rest):
            raise WeightsError(f"init={config.init} has a network of its own; leave out arch={config.arch}")
        network, _, pretrained = load_network(EmbedderConfig(weights=config.init, input_px=config.input_px))
        return _build(_sized(rest, config), network.state_dict(), config, pretrained)
    path = bundled_weights("backbone") if source == "bundled" else Path(rest).expanduser()
    state, meta = read_backbone_checkpoint(path)
    preprocessing = None if meta is None else meta.preprocessing
    if config.arch is not None:
        architecture = _sized(config.arch, config)
    elif meta is not None:
        architecture = _sized(meta.architecture, config, meta.kwargs)
    else:
        inferred = infer_architecture(state)
        if inferred is None:
            raise WeightsError(
                f"{path} is not a plain ViT, ResNet or EfficientNet-Lite by its keys (the first: "
                f"{', '.join(list(state)[:3])}); set arch to its timm name"
            )
        architecture = _sized(inferred.name, config, inferred.kwargs)
    return _build(architecture, state, config, preprocessing, source=str(path))


def _sized(name: str, config: TrainConfig, kwargs: dict[str, object] | None = None) -> Architecture:
    merged = {**(kwargs or {}), **config.arch_kwargs}
    if name.startswith(("vit_", "deit_", "eva", "beit")):
        merged |= {"img_size": config.input_px, "dynamic_img_size": True}
    return Architecture(name, config.input_px, merged)


def _build(
    architecture: Architecture,
    state: dict[str, torch.Tensor],
    config: TrainConfig,
    preprocessing: Preprocessing | None = None,
    *,
    source: str = "",
) -> InitialBackbone:
    network = (
        build_with_weights(architecture, state, source=source or config.init)
        if state
        else build_backbone_network(architecture)
    )
    preprocessing = preprocessing or preprocessing_of(architecture)
    if config.method == "metric" and config.metric.dimension is not None:
        architecture = _with_last_layer(network, architecture, config.metric.dimension)
    half = config.method == "transfer" and config.transfer.layers == "deep_half"
    freeze_first(network, max(config.frozen_stages, count_stages(network) // 2 if half else 0))
    network.eval()
    with torch.inference_mode():
        output = network(torch.zeros(1, 3, config.input_px, config.input_px))
    if output.ndim != 2:
        raise WeightsError(
            f"{architecture.name} gives {tuple(output.shape)} values for one image, not a vector"
        )
    return InitialBackbone(
        network, architecture, int(output.shape[1]), replace(preprocessing, size_px=config.input_px)
    )


def _with_last_layer(network: torch.nn.Module, architecture: Architecture, dimension: int) -> Architecture:
    """Give a timm network a new last layer of this length, initialised from torch's global generator."""
    timm_network: Any = network
    timm_network.reset_classifier(dimension)
    return replace(architecture, kwargs={**architecture.kwargs, "num_classes": dimension})


def count_stages(network: torch.nn.Module) -> int:
    """Return the number of stages of a network, as timm groups its layers; the stem is one."""
    from timm.models import group_parameters

    timm_network: Any = network
    return len(group_parameters(network, timm_network.group_matcher(coarse=True)))


def freeze_first(network: torch.nn.Module, stages: int) -> None:
    """Freeze the weights and norms of the first stages (timm's layer groups; the stem is one).

    Raises:
        WeightsError: No stage would be left to train.
    """
    if not stages:
        return
    from timm.layers.norm_act import freeze_batch_norm_2d
    from timm.models import group_modules, group_parameters

    timm_network: Any = network
    matcher = timm_network.group_matcher(coarse=True)
    parameters: Mapping[int, Sequence[str]] = group_parameters(network, matcher)
    if stages >= len(parameters):
        raise WeightsError(
            f"frozen_stages={stages} leaves nothing to train in a network of {len(parameters)} stages; give fewer"
        )
    modules: Mapping[int, Sequence[str]] = group_modules(network, matcher)
    for stage in range(stages):
        for name in parameters[stage]:
            network.get_parameter(name).requires_grad_(False)
        for name in modules.get(stage, ()):
            # Batch norms would otherwise keep updating their running statistics; frozen ones use them as constants.
            network.set_submodule(name, freeze_batch_norm_2d(network.get_submodule(name)))  # type: ignore[no-untyped-call]
