"""Loading of the backbone that the configuration names."""

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
    build_outline,
    build_with_weights,
    infer_architecture,
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
    """Load the backbone of `embedder.weights` on a device; None for `none`.

    compiled: use torch.compile, for the one shape of its batches.

    Raises:
        WeightsError: the weights are missing, damaged, unsafe, of another network, or the hub cannot be reached.
        ConfigError: the network cannot be compiled.
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
    """Load the unmodified network of `embedder.weights`, its name and its preprocessing.

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
    """Return the sha256 of the weights by the name of their file; {} for `none`.

    Weights of one name may change on a hub, so `timm:<name>` has the digest of the downloaded tensors.

    Raises:
        WeightsError: the weights are missing or cannot be read.
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
    """Return whether `describe_embedder` works without loading the weights."""
    return config.weights in ("none", "bundled")


def describe_embedder(config: EmbedderConfig) -> dict[str, str | int | list[float]]:
    """Return the description of the backbone for run.json: name, dimension, preprocessing; {} for `none`.

    Weights other than the bundled ones are loaded, so that unusable weights are refused before any worker starts.

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
        return _describe(meta.name, meta.dimension, replace(meta.preprocessing, size_px=size_px))
    embedder = load_embedder(config, device="cpu")
    assert isinstance(embedder, BackboneEmbedder)
    return _describe(embedder.name, embedder.dimension, embedder.preprocessing)


def _describe(name: str, dimension: int, preprocessing: Preprocessing) -> dict[str, str | int | list[float]]:
    return {
        "name": name,
        "dimension": dimension,
        "input_px": preprocessing.size_px,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "interpolation": preprocessing.interpolation,
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
                f"the keys of {path} are not those of a plain ViT, ResNet or EfficientNet-Lite (the first: "
                f"{', '.join(list(state)[:3])}); set embedder.architecture to its timm name"
            )
        stated, name = inferred, path.stem
        preprocessing = preprocessing_of(stated)
    architecture = _at_size(stated, config.input_px)
    network = build_with_weights(architecture, state, source=str(path))
    return network, name, replace(preprocessing, size_px=architecture.input_px)


def preprocessing_of(architecture: Architecture) -> Preprocessing:
    """Return the preprocessing that timm records for a name with a tag of its weights, else that of ImageNet.

    A name without a tag does not describe how the weights were trained; DINO, SCAMPI, torchvision and most training
    scripts normalise by the mean and standard deviation of ImageNet.
    """
    if "." not in architecture.name:
        return Preprocessing(architecture.input_px, IMAGENET_MEAN, IMAGENET_STD, "bicubic")
    return _recorded_by_timm(build_outline(architecture))


def _recorded_by_timm(network: torch.nn.Module) -> Preprocessing:
    from timm.data.config import resolve_model_data_config

    recorded: dict[str, Any] = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    mean, std = tuple(recorded["mean"]), tuple(recorded["std"])
    interpolation: Interpolation = "bilinear" if recorded["interpolation"] == "bilinear" else "bicubic"
    return Preprocessing(int(recorded["input_size"][-1]), mean, std, interpolation)


def _native_px(architecture: str) -> int:
    return _recorded_by_timm(build_outline(Architecture(architecture, 0))).size_px


def _at_size(architecture: Architecture, input_px: int | None) -> Architecture:
    """Return the architecture for another input side; a ViT takes it as its argument img_size."""
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
    # Hub clients raise OSError if they cannot connect and RuntimeError for names without weights.
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"the weights of timm:{name} cannot be fetched ({reason}); where there is no network, download the file "
            f"elsewhere and set embedder.weights=file:<path> with embedder.architecture={name}"
        ) from None
    return network, replace(_recorded_by_timm(network), size_px=architecture.input_px)


BACKBONE_HELP = (
    "bundled, a file of weights, timm:<name>, random:<timm name> (random weights; random:bundled is the "
    "bundled network with random weights), handcrafted (gradients, colours and shape, no network), or run (the vectors "
    "stored in the run of --run)."
)


def weights_setting_of(backbone: str) -> str:
    """Return the value of `embedder.weights` for a backbone's name.

    Raises:
        UsageError: it is neither a file nor a name.
    """
    if backbone == "bundled" or backbone.startswith(("timm:", "file:")):
        return backbone
    if not Path(backbone).is_file():
        raise UsageError(f"--backbone {backbone!r} is neither a file nor one of: {BACKBONE_HELP}")
    return f"file:{backbone}"
