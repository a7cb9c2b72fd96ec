"""timm networks of backbones: inferred from a state dict, built, and filled with weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fossilray.core.errors import WeightsError
from fossilray.core.formats.plain_values import shown
from fossilray.core.text import list_some
from fossilray.models.backbones.arguments import LARGEST_INPUT_PX, check_arguments, check_name
from fossilray.models.backbones.checkpoints import without_prefixes
from fossilray.models.backbones.efficientnet_lite import efficientnet_lite_number
from fossilray.models.meta_device import build_on_meta, try_on_meta

if TYPE_CHECKING:
    import torch

_VIT_BY_DIMENSION = {192: "tiny", 384: "small", 768: "base", 1024: "large"}
"""Embedding dimensions of ViT-Ti, S, B and L (Touvron et al. 2021, table 1; Dosovitskiy et al. 2021, table 1)."""

_RESNET_BY_BLOCKS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
    (True, (3, 8, 36, 3)): "resnet152",
}
"""ResNets by (has bottlenecks, blocks per stage) (He et al. 2016, table 1)."""

_LITE_PX = (224, 240, 260, 280, 300)
"""Input sides of EfficientNet-Lite0 to 4 in training."""

_HEAD_KEYS = (
    "head",
    "heads",
    "head_dist",
    "fc",
    "classifier",
    "projection_head",
    "projector",
    "predictor",
    "mask_token",
)
"""First components of keys that only training or classification uses; they may be left out."""

_MAX_NAMED = 5
"""Number of keys that an error lists."""


@dataclass(frozen=True)
class Architecture:
    """Arguments of timm.create_model, and the side of the square input."""

    name: str
    input_px: int
    kwargs: dict[str, Any] = field(default_factory=dict)


def infer_architecture(state: Mapping[str, torch.Tensor]) -> Architecture | None:
    """Infer a plain ViT, ResNet or EfficientNet-Lite from keys and shapes; None for other networks."""
    state = without_prefixes(state)
    if {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "pos_embed"} <= state.keys():
        return _infer_vit(state)
    if "layer1.0.conv1.weight" in state and "layer4.0.conv1.weight" in state:
        return _infer_resnet(state)
    lite = efficientnet_lite_number(state)
    # Lite's preprocessing (0.5 for mean and standard deviation) is recorded by timm under the tagged name.
    return None if lite is None else Architecture(f"tf_efficientnet_lite{lite}.in1k", _LITE_PX[lite])


def build_backbone_network(architecture: Architecture) -> torch.nn.Module:
    """Build a network with random weights, without a head unless its arguments request one.

    Raises:
        WeightsError: timm does not know the name, the network refuses the arguments, or it is too large.
    """
    build_outline(architecture)
    return _create(architecture)


def build_with_weights(
    architecture: Architecture, state: Mapping[str, torch.Tensor], *, source: str
) -> torch.nn.Module:
    """Build a network and load a state dict; shapes are checked on the meta device before memory is allocated.

    Prefixes of keys are removed, position embeddings interpolated and heads left out; all other keys must match.

    Raises:
        WeightsError: as build_backbone_network; a tensor does not fit; or an image would take too much memory.
    """
    outline = build_outline(architecture)
    fitted = _fit_state(outline, state, source=source, architecture=architecture.name)
    if architecture.input_px:
        with _as_refusal(architecture):
            try_on_meta(outline.eval(), side_px=architecture.input_px)
    network = _create(architecture)
    network.load_state_dict(fitted, strict=False)
    return network


def build_outline(architecture: Architecture) -> torch.nn.Module:
    """Build a network on the meta device: shapes and timm's records, without memory for weights.

    Raises:
        WeightsError: as build_backbone_network.
    """
    check_name(architecture.name)
    check_arguments(architecture.name, architecture.kwargs)
    if architecture.input_px > LARGEST_INPUT_PX:
        raise WeightsError(
            f"{architecture.name} has an input of {architecture.input_px} px, more than the limit of "
            f"{LARGEST_INPUT_PX} px; set a smaller input_px"
        )
    with _as_refusal(architecture):
        return build_on_meta(lambda: _create(architecture))


def _create(architecture: Architecture) -> torch.nn.Module:
    import timm

    kwargs = check_arguments(architecture.name, architecture.kwargs)
    with _as_refusal(architecture):
        network: torch.nn.Module = timm.create_model(
            architecture.name, pretrained=False, **{"num_classes": 0, **kwargs}
        )
    return network


@contextmanager
def _as_refusal(architecture: Architecture) -> Iterator[None]:
    try:
        yield
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise WeightsError(
            f"timm cannot build {architecture.name} with {shown(dict(architecture.kwargs))}: "
            f"{' '.join(str(error).split())[:300]}; check embedder.architecture, or the file's metadata"
        ) from None


def _fit_state(
    network: torch.nn.Module, state: Mapping[str, torch.Tensor], *, source: str, architecture: str
) -> dict[str, torch.Tensor]:
    """Return the tensors of a state dict that the network takes, in its shapes."""
    expected = network.state_dict()
    fitted = {
        key: tensor
        for key, tensor in without_prefixes(state).items()
        if key in expected or key.split(".")[0] not in _HEAD_KEYS
    }
    _resample_positions(network, fitted)
    missing = [key for key in expected if key not in fitted and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in fitted if key not in expected]
    misshapen = [
        f"{key} {tuple(fitted[key].shape)} for {tuple(expected[key].shape)}"
        for key in fitted
        if key in expected and fitted[key].shape != expected[key].shape
    ]
    if missing or unexpected or misshapen:
        raise WeightsError(
            f"{source} does not fit {architecture}: {_list_keys('missing', missing)}; "
            f"{_list_keys('unexpected', unexpected)}; {_list_keys('of another shape', misshapen)}; "
            "set embedder.architecture to the timm name of the network that it was saved from"
        )
    return fitted


def _infer_vit(state: Mapping[str, torch.Tensor]) -> Architecture | None:
    kernel, registered = state["patch_embed.proj.weight"], state.get("reg_token")
    if kernel.ndim != 4 or state["pos_embed"].ndim != 3 or (registered is not None and registered.ndim != 3):
        return None
    dimension, _, _, patch_px = kernel.shape
    if dimension not in _VIT_BY_DIMENSION:
        return None
    depth = 1 + max(int(match.group(1)) for key in state if (match := re.match(r"blocks\.(\d{1,4})\.", key)))
    has_class = "cls_token" in state
    registers = 0 if registered is None else registered.shape[1]
    positions = state["pos_embed"].shape[1]
    # Prefix tokens may have positions: the number that leaves a square grid of patches is taken.
    prefixes = int(has_class) + registers
    side = next((_root(positions - extra) for extra in (prefixes, 0) if _root(positions - extra)), 0)
    if not side:
        return None
    kwargs: dict[str, Any] = {"img_size": side * patch_px, "patch_size": patch_px, "depth": depth}
    if not has_class:
        kwargs |= {"class_token": False, "global_pool": "avg"}
    if registers:
        kwargs["reg_tokens"] = registers
    if prefixes and positions == side**2:
        kwargs["no_embed_class"] = True
    if "blocks.0.ls1.gamma" in state:
        kwargs["init_values"] = 1e-5  # any value: it creates the layer scales that are in the file
    if "fc_norm.weight" in state:
        kwargs["global_pool"] = "avg"
    return Architecture(f"vit_{_VIT_BY_DIMENSION[dimension]}_patch16_224", side * patch_px, kwargs)


def _infer_resnet(state: Mapping[str, torch.Tensor]) -> Architecture | None:
    blocks = tuple(
        max((1 + int(match.group(1)) for key in state if (match := _in_stage(stage).match(key))), default=0)
        for stage in (1, 2, 3, 4)
    )
    name = _RESNET_BY_BLOCKS.get(("layer1.0.conv3.weight" in state, blocks))
    return Architecture(name, 224) if name else None


def _in_stage(stage: int) -> re.Pattern[str]:
    return re.compile(rf"layer{stage}\.(\d{{1,4}})\.")


def _root(number: int) -> int:
    root = round(max(number, 0) ** 0.5)
    return root if root * root == number else 0


def _resample_positions(network: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Interpolate a ViT's position embeddings if the file and the network have different grids of patches."""
    expected: Any = getattr(network, "pos_embed", None)
    stored = state.get("pos_embed")
    if (
        expected is None
        or stored is None
        or stored.shape == expected.shape
        or stored.ndim != 3
        or expected.ndim != 3
    ):
        return
    from timm.layers.pos_embed import resample_abs_pos_embed

    grid = list(network.patch_embed.grid_size)  # type: ignore[union-attr, arg-type]
    prefixes = expected.shape[1] - grid[0] * grid[1]
    if (
        stored.is_floating_point()
        and stored.shape[2] == expected.shape[2]
        and _root(stored.shape[1] - prefixes)
    ):
        state["pos_embed"] = resample_abs_pos_embed(stored, grid, num_prefix_tokens=prefixes)


def _list_keys(problem: str, keys: list[str]) -> str:
    names = list_some((key[:100] for key in keys), most=_MAX_NAMED)
    return f"{len(keys)} {problem}" + (f" ({names})" if keys else "")
