"""Published EfficientNet-Lite weights under the names that timm has for them.

The tensors of Google's EfficientNet-Lite (Tan & Le 2019; without squeeze-and-excitation, ReLU6) circulate in PyTorch
under names of their own: blocks counted through, `_expand_conv`, `_depthwise_conv`, `_project_conv`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

REPEATS = {
    16: (1, 2, 2, 3, 3, 4, 1),
    21: (1, 3, 3, 4, 4, 5, 1),
    24: (1, 3, 3, 5, 5, 6, 1),
    30: (1, 4, 4, 6, 6, 8, 1),
}
"""Blocks of each stage by their number in all: Lite0; Lite1 and Lite2; Lite3; Lite4."""
LITE_BY_WIDTHS = {(16, 320): 0, (21, 320): 1, (21, 352): 2, (24, 384): 3, (30, 448): 4}
"""Which one it is, by the number of blocks and the channels that the last one gives."""

_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""The first stage's block does not expand."""
_LATER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def to_timm_keys(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict with timm's names, where it is a published EfficientNet-Lite; else as given."""
    if "_conv_stem.weight" not in state or "_blocks.0._depthwise_conv.weight" not in state:
        return dict(state)
    blocks = 1 + max(int(found.group(1)) for key in state if (found := re.match(r"_blocks\.(\d+)\.", key)))
    if blocks not in REPEATS:
        return dict(state)
    places = [(stage, number) for stage, repeats in enumerate(REPEATS[blocks]) for number in range(repeats)]
    return {_rename(key, places): tensor for key, tensor in state.items()}


def efficientnet_lite_number(state: Mapping[str, torch.Tensor]) -> int | None:
    """0 to 4 for the keys and shapes of timm's tf_efficientnet_lite0 … 4; None for anything else."""
    last = state.get("blocks.6.0.conv_pwl.weight")
    if last is None or any(".se." in key for key in state):
        return None
    blocks = sum(bool(re.fullmatch(r"blocks\.\d+\.\d+\.conv_dw\.weight", key)) for key in state)
    return LITE_BY_WIDTHS.get((blocks, last.shape[0]))


def _rename(key: str, places: list[tuple[int, int]]) -> str:
    if not key.startswith("_blocks."):
        part, _, rest = key.partition(".")
        return f"{_OUTSIDE.get(part, part)}.{rest}"
    _, number, part, rest = key.split(".", 3)
    stage, within = places[int(number)]
    names = _LATER if stage else _FIRST
    return f"blocks.{stage}.{within}.{names.get(part, part)}.{rest}"
