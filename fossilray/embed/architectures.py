"""Which timm network a state dict belongs to, and the state dict fitted into it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fossilray.embed.checkpoints import without_prefixes
from fossilray.embed.efficientnet_lite import which_lite
from fossilray.errors import WeightsError

if TYPE_CHECKING:
    import torch

VIT_BY_DIMENSION = {192: "tiny", 384: "small", 768: "base", 1024: "large"}
"""Embedding dimensions of ViT-Ti, S, B and L (Touvron et al. 2021, table 1; Dosovitskiy et al. 2021, table 1)."""

RESNET_BY_BLOCKS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
    (True, (3, 8, 36, 3)): "resnet152",
}
"""(bottlenecks?, blocks per stage) of ResNets (He et al. 2016, table 1)."""

LITE_PX = (224, 240, 260, 280, 300)
"""Sides that EfficientNet-Lite0 to 4 were trained at."""

HEADS = (
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
"""First parts of keys that serve training or classifying and may lie unused."""

MOST_NAMED = 5
"""Keys that an error spells out before it only counts."""


@dataclass(frozen=True)
class Architecture:
    """What timm.create_model is told, and the side of the square the network was made for."""

    name: str
    input_px: int
    kwargs: dict[str, Any] = field(default_factory=dict)


def infer_architecture(state: Mapping[str, torch.Tensor]) -> Architecture | None:
    """The plain ViT, ResNet or EfficientNet-Lite whose keys and shapes these are; None for anything else."""
    state = without_prefixes(state)
    if "patch_embed.proj.weight" in state and "blocks.0.attn.qkv.weight" in state and "pos_embed" in state:
        return _infer_vit(state)
    if "layer1.0.conv1.weight" in state and "layer4.0.conv1.weight" in state:
        return _infer_resnet(state)
    lite = which_lite(state)
    # Lite's own preprocessing (0.5 for mean and deviation) is timm's record for it, as for a tagged name.
    return None if lite is None else Architecture(f"tf_efficientnet_lite{lite}.in1k", LITE_PX[lite])


def build_network(architecture: Architecture) -> torch.nn.Module:
    """The network without weights, and without a head unless it is to have one: images in, one vector each out.

    Raises:
        WeightsError: timm does not know the name, or the network refuses the arguments.
    """
    import timm

    if not timm.is_model(architecture.name.split(".")[0]):
        raise WeightsError(
            f"{architecture.name!r} is no network of timm; timm.list_models() names them all, "
            "embedder.architecture or timm:<name> takes one"
        )
    try:
        network: torch.nn.Module = timm.create_model(
            architecture.name, pretrained=False, **{"num_classes": 0, **architecture.kwargs}
        )
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise WeightsError(
            f"timm cannot build {architecture.name} with {architecture.kwargs}: {error}; check embedder.architecture"
        ) from None
    return network


def fill_network(
    network: torch.nn.Module, state: Mapping[str, torch.Tensor], *, source: str, architecture: str
) -> None:
    """Put a state dict into a network, its prefixes taken off and position embeddings interpolated.

    Heads are left out. Nothing else may be missing or left over.

    Raises:
        WeightsError: names what is missing, unexpected or of another shape.
    """
    expected = network.state_dict()
    given = {
        key: tensor
        for key, tensor in without_prefixes(state).items()
        if key in expected or key.split(".")[0] not in HEADS
    }
    _resample_positions(network, given)
    missing = [key for key in expected if key not in given and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in given if key not in expected]
    misshapen = [
        f"{key} {tuple(given[key].shape)} for {tuple(expected[key].shape)}"
        for key in given
        if key in expected and given[key].shape != expected[key].shape
    ]
    if missing or unexpected or misshapen:
        raise WeightsError(
            f"{source} does not fit {architecture}: {_name_some('missing', missing)}; "
            f"{_name_some('unexpected', unexpected)}; {_name_some('of another shape', misshapen)}; "
            "set embedder.architecture to the timm name of the network it was saved from"
        )
    network.load_state_dict(given, strict=False)


def _infer_vit(state: Mapping[str, torch.Tensor]) -> Architecture | None:
    dimension, _, _, patch_px = state["patch_embed.proj.weight"].shape
    if dimension not in VIT_BY_DIMENSION:
        return None
    depth = 1 + max(int(found.group(1)) for key in state if (found := re.match(r"blocks\.(\d+)\.", key)))
    has_class = "cls_token" in state
    registers = state["reg_token"].shape[1] if "reg_token" in state else 0
    positions = state["pos_embed"].shape[1]
    # Prefix tokens have positions of their own or none: whichever leaves a square grid of patches.
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
        kwargs["init_values"] = 1e-5  # any number: it makes room for the layer scales in the file
    if "fc_norm.weight" in state:
        kwargs["global_pool"] = "avg"
    return Architecture(f"vit_{VIT_BY_DIMENSION[dimension]}_patch16_224", side * patch_px, kwargs)


def _infer_resnet(state: Mapping[str, torch.Tensor]) -> Architecture | None:
    blocks = tuple(
        1 + max(int(found.group(1)) for key in state if (found := re.match(rf"layer{stage}\.(\d+)\.", key)))
        for stage in (1, 2, 3, 4)
    )
    name = RESNET_BY_BLOCKS.get(("layer1.0.conv3.weight" in state, blocks))
    return Architecture(name, 224) if name else None


def _root(number: int) -> int:
    root = round(max(number, 0) ** 0.5)
    return root if root * root == number else 0


def _resample_positions(network: torch.nn.Module, given: dict[str, torch.Tensor]) -> None:
    """Interpolate a ViT's position embeddings where the file's grid of patches is not the network's."""
    expected: Any = getattr(network, "pos_embed", None)
    found = given.get("pos_embed")
    if expected is None or found is None or found.shape == expected.shape or found.ndim != 3:
        return
    from timm.layers.pos_embed import resample_abs_pos_embed

    grid = list(network.patch_embed.grid_size)  # type: ignore[union-attr, arg-type]
    prefixes = expected.shape[1] - grid[0] * grid[1]
    if found.shape[2] == expected.shape[2] and _root(found.shape[1] - prefixes):
        given["pos_embed"] = resample_abs_pos_embed(found, grid, num_prefix_tokens=prefixes)


def _name_some(what: str, keys: list[str]) -> str:
    named = ", ".join(keys[:MOST_NAMED]) + (", …" if len(keys) > MOST_NAMED else "")
    return f"{len(keys)} {what}" + (f" ({named})" if keys else "")
