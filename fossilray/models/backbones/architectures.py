"""Which timm network a state dict belongs to, and the state dict fitted into it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fossilray.core.errors import WeightsError
from fossilray.core.formats.plain_values import shown
from fossilray.models.backbones.arguments import LARGEST_INPUT_PX, check_name, checked_arguments
from fossilray.models.backbones.checkpoints import without_prefixes
from fossilray.models.backbones.efficientnet_lite import efficientnet_lite_number
from fossilray.models.meta_device import build_on_meta, try_on_meta

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
    if {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "pos_embed"} <= state.keys():
        return _infer_vit(state)
    if "layer1.0.conv1.weight" in state and "layer4.0.conv1.weight" in state:
        return _infer_resnet(state)
    lite = efficientnet_lite_number(state)
    # Lite's own preprocessing (0.5 for mean and deviation) is timm's record for it, as for a tagged name.
    return None if lite is None else Architecture(f"tf_efficientnet_lite{lite}.in1k", LITE_PX[lite])


def build_backbone_network(architecture: Architecture) -> torch.nn.Module:
    """The network without weights, and without a head unless it is to have one: images in, one vector each out.

    Raises:
        WeightsError: timm does not know the name, the network refuses the arguments, or would be too large.
    """
    lay_out(architecture)
    return _created(architecture)


def build_filled(
    architecture: Architecture, state: Mapping[str, torch.Tensor], *, source: str
) -> torch.nn.Module:
    """The network with a state dict in it, laid out without memory first, so that it holds what the file holds.

    Prefixes are taken off the keys, position embeddings interpolated, heads left out; nothing else may be missing or
    left over.

    Raises:
        WeightsError: as build_backbone_network; a tensor does not fit; or an image would take too much memory.
    """
    outline = lay_out(architecture)
    given = _fitted(outline, state, source=source, architecture=architecture.name)
    if architecture.input_px:
        with _as_refusal(architecture):
            try_on_meta(outline.eval(), side_px=architecture.input_px)
    network = _created(architecture)
    network.load_state_dict(given, strict=False)
    return network


def lay_out(architecture: Architecture) -> torch.nn.Module:
    """The network on the meta device: its shapes and what timm records of it, without memory for its numbers.

    Raises:
        WeightsError: as build_backbone_network.
    """
    check_name(architecture.name)
    checked_arguments(architecture.name, architecture.kwargs)
    if architecture.input_px > LARGEST_INPUT_PX:
        raise WeightsError(
            f"{architecture.name} is to see images of {architecture.input_px} px, and at most {LARGEST_INPUT_PX} px "
            "are shown to a backbone; set a smaller input_px"
        )
    return build_on_meta(lambda: _created(architecture))


def _created(architecture: Architecture) -> torch.nn.Module:
    import timm

    kwargs = checked_arguments(architecture.name, architecture.kwargs)
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


def _fitted(
    network: torch.nn.Module, state: Mapping[str, torch.Tensor], *, source: str, architecture: str
) -> dict[str, torch.Tensor]:
    """What of a state dict goes into the network, in its shapes."""
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
    return given


def _infer_vit(state: Mapping[str, torch.Tensor]) -> Architecture | None:
    kernel, registered = state["patch_embed.proj.weight"], state.get("reg_token")
    if kernel.ndim != 4 or state["pos_embed"].ndim != 3 or (registered is not None and registered.ndim != 3):
        return None
    dimension, _, _, patch_px = kernel.shape
    if dimension not in VIT_BY_DIMENSION:
        return None
    depth = 1 + max(int(found.group(1)) for key in state if (found := re.match(r"blocks\.(\d{1,4})\.", key)))
    has_class = "cls_token" in state
    registers = 0 if registered is None else registered.shape[1]
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
        max((1 + int(found.group(1)) for key in state if (found := _in_stage(stage).match(key))), default=0)
        for stage in (1, 2, 3, 4)
    )
    name = RESNET_BY_BLOCKS.get(("layer1.0.conv3.weight" in state, blocks))
    return Architecture(name, 224) if name else None


def _in_stage(stage: int) -> re.Pattern[str]:
    return re.compile(rf"layer{stage}\.(\d{{1,4}})\.")


def _root(number: int) -> int:
    root = round(max(number, 0) ** 0.5)
    return root if root * root == number else 0


def _resample_positions(network: torch.nn.Module, given: dict[str, torch.Tensor]) -> None:
    """Interpolate a ViT's position embeddings where the file's grid of patches is not the network's."""
    expected: Any = getattr(network, "pos_embed", None)
    found = given.get("pos_embed")
    if (
        expected is None
        or found is None
        or found.shape == expected.shape
        or found.ndim != 3
        or expected.ndim != 3
    ):
        return
    from timm.layers.pos_embed import resample_abs_pos_embed

    grid = list(network.patch_embed.grid_size)  # type: ignore[union-attr, arg-type]
    prefixes = expected.shape[1] - grid[0] * grid[1]
    if found.is_floating_point() and found.shape[2] == expected.shape[2] and _root(found.shape[1] - prefixes):
        given["pos_embed"] = resample_abs_pos_embed(found, grid, num_prefix_tokens=prefixes)


def _name_some(what: str, keys: list[str]) -> str:
    named = ", ".join(key[:100] for key in keys[:MOST_NAMED]) + (", …" if len(keys) > MOST_NAMED else "")
    return f"{len(keys)} {what}" + (f" ({named})" if keys else "")
