"""The embedder that a configuration asks for, ready on its device."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fossilray.core.config import EmbedderConfig
from fossilray.core.config.choices import Precision
from fossilray.core.errors import UsageError, WeightsError
from fossilray.core.types import Embedder
from fossilray.models.backbones.architectures import (
    Architecture,
    build_filled,
    infer_architecture,
    lay_out,
)
from fossilray.models.backbones.backbone_file import BackboneMeta, backbone_role
from fossilray.models.backbones.checkpoints import read_backbone_checkpoint
from fossilray.models.backbones.embedder import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BackboneEmbedder,
    Interpolation,
    Preprocessing,
)
from fossilray.models.device import precision_on
from fossilray.models.weights_file import bundled_weights, read_description, weights_digest

if TYPE_CHECKING:
    import torch


def load_embedder(
    config: EmbedderConfig,
    *,
    device: torch.device | str,
    precision: Precision = "auto",
    compiled: bool = False,
) -> Embedder | None:
    """The backbone of `embedder.weights`; None for `none`.

    precision: what it reckons in on this device. compiled: by torch.compile, once for the one shape of its batches.

    Raises:
        WeightsError: the weights are absent, damaged, unsafe, of another network, or the hub is out of reach.
        ConfigError: it is to be compiled and cannot be.
    """
    if config.weights == "none":
        return None
    network, name, preprocessing = load_network(config)
    return BackboneEmbedder(
        network,
        name=name,
        preprocessing=preprocessing,
        device=device,
        batch=config.batch,
        dtype=precision_on(device, precision),
        compiled=compiled,
    )


def load_network(config: EmbedderConfig) -> tuple[torch.nn.Module, str, Preprocessing]:
    """The network of `embedder.weights` as it was trained, its name and what it wants to see.

    Raises:
        WeightsError: as load_embedder, and for `none`.
    """
    if config.weights == "bundled":
        return _load_file(bundled_weights("backbone"), config)
    source, _, rest = config.weights.partition(":")
    if source == "file" and rest:
        return _load_file(Path(rest), config)
    if source == "timm" and rest:
        network, preprocessing = _fetch_from_hub(rest, config)
        return network, config.weights, preprocessing
    raise WeightsError(
        f"embedder.weights is {config.weights!r}; expected bundled, none, timm:<name> or file:<path>"
    )


def embedder_digest(config: EmbedderConfig) -> dict[str, str]:
    """sha256 of the weights by the name of their file; {} for `none`.

    What a hub gives under one name may change, so `timm:<name>` is the digest of the tensors it gave.
    """
    if config.weights == "none":
        return {}
    if config.weights.startswith("timm:"):
        network, _ = _fetch_from_hub(config.weights.removeprefix("timm:"), config)
        digest = hashlib.sha256()
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return {config.weights: digest.hexdigest()}
    bundled = config.weights == "bundled"
    path = bundled_weights("backbone") if bundled else Path(config.weights.removeprefix("file:"))
    return {path.name: weights_digest(path, backbone_role(path))}


def describes_without_loading(config: EmbedderConfig) -> bool:
    """Whether `describe_embedder` need not load the weights."""
    return config.weights in ("none", "bundled")


def describe_embedder(config: EmbedderConfig) -> dict[str, str | int | list[float]]:
    """What a run should record of its backbone besides the digest: name, dimension, preprocessing; {} for `none`.

    Others' weights are loaded, so that those that do not fit are known before any worker starts; the bundled ones are
    known to fit.

    Raises:
        WeightsError: as load_embedder.
    """
    if config.weights == "none":
        return {}
    bundled = bundled_weights("backbone")
    if config.weights == "bundled" and (
        meta := read_description(bundled, BackboneMeta, backbone_role(bundled))
    ):
        size_px = config.input_px or meta.preprocessing.size_px
        return _described(meta.name, meta.dimension, replace(meta.preprocessing, size_px=size_px))
    embedder = load_embedder(config, device="cpu")
    assert isinstance(embedder, BackboneEmbedder)
    return _described(embedder.name, embedder.dimension, embedder.preprocessing)


def _described(name: str, dimension: int, shown: Preprocessing) -> dict[str, str | int | list[float]]:
    return {
        "name": name,
        "dimension": dimension,
        "input_px": shown.size_px,
        "mean": list(shown.mean),
        "std": list(shown.std),
        "interpolation": shown.interpolation,
    }


def _load_file(path: Path, config: EmbedderConfig) -> tuple[torch.nn.Module, str, Preprocessing]:
    state, meta = read_backbone_checkpoint(path)
    if meta is not None:
        stated = Architecture(meta.architecture, meta.input_px, dict(meta.kwargs))
        preprocessing, name = meta.preprocessing, meta.name
    elif config.architecture is not None:
        stated = Architecture(config.architecture, _native_px(config.architecture))
        preprocessing, name = preprocessing_of(stated), path.stem
    else:
        inferred = infer_architecture(state)
        if inferred is None:
            raise WeightsError(
                f"{path} is no plain ViT, ResNet or EfficientNet-Lite by its keys (the first: "
                f"{', '.join(list(state)[:3])}); set embedder.architecture to its timm name"
            )
        stated, name = inferred, path.stem
        preprocessing = preprocessing_of(stated)
    architecture = _at_size(stated, config.input_px)
    network = build_filled(architecture, state, source=str(path))
    return network, name, replace(preprocessing, size_px=architecture.input_px)


def preprocessing_of(architecture: Architecture) -> Preprocessing:
    """ImageNet's mean and deviation, or what timm records where the name carries a tag of its weights.

    An untagged timm name says nothing of how somebody's own weights were trained; DINO, SCAMPI,
    torchvision and most training scripts normalise by ImageNet.
    """
    if "." not in architecture.name:
        return Preprocessing(architecture.input_px, IMAGENET_MEAN, IMAGENET_STD, "bicubic")
    return _recorded_by_timm(lay_out(architecture))


def _recorded_by_timm(network: torch.nn.Module) -> Preprocessing:
    from timm.data.config import resolve_model_data_config

    recorded: dict[str, Any] = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    mean, std = tuple(recorded["mean"]), tuple(recorded["std"])
    interpolation: Interpolation = "bilinear" if recorded["interpolation"] == "bilinear" else "bicubic"
    return Preprocessing(int(recorded["input_size"][-1]), mean, std, interpolation)


def _native_px(architecture: str) -> int:
    return _recorded_by_timm(lay_out(Architecture(architecture, 0))).size_px


def _at_size(architecture: Architecture, input_px: int | None) -> Architecture:
    """The same network for another input; only a ViT is built for one size, by its argument img_size."""
    if input_px is None or input_px == architecture.input_px:
        return architecture
    kwargs = dict(architecture.kwargs)
    if "img_size" in kwargs or architecture.name.startswith(("vit_", "deit_", "eva", "beit")):
        kwargs["img_size"] = input_px
    return replace(architecture, input_px=input_px, kwargs=kwargs)


def _fetch_from_hub(name: str, config: EmbedderConfig) -> tuple[torch.nn.Module, Preprocessing]:
    import timm

    native = Architecture(name, _native_px(name))
    architecture = _at_size(native, config.input_px)
    try:
        network: torch.nn.Module = timm.create_model(
            name, pretrained=True, num_classes=0, **architecture.kwargs
        )
    # Hub clients raise OSError when they reach nobody and RuntimeError for names without weights.
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"the weights of timm:{name} cannot be fetched ({reason}); where there is no network, fetch the file "
            f"elsewhere and set embedder.weights=file:<path> with embedder.architecture={name}"
        ) from None
    return network, replace(_recorded_by_timm(network), size_px=architecture.input_px)


BACKBONE_HELP = (
    "bundled, a file of weights, timm:<name>, random:<timm name> (before it learned anything; random:bundled is "
    "the shipped network so), handcrafted (gradients, colours and shape, no network), or run (the vectors that the "
    "run of --run holds)."
)


def weights_setting_of(backbone: str) -> str:
    """A backbone's name as `embedder.weights` spells it.

    Raises:
        UsageError: it is no file and no name.
    """
    if backbone == "bundled" or backbone.startswith(("timm:", "file:")):
        return backbone
    if not Path(backbone).is_file():
        raise UsageError(f"--backbone {backbone!r} is neither a file nor one of: {BACKBONE_HELP}")
    return f"file:{backbone}"
