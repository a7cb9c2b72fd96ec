"""Conversion of published EfficientNet-Lite weights to timm's keys.

The tensors of Google's EfficientNet-Lite (Tan & Le 2019; without squeeze-and-excitation, ReLU6) are published for
PyTorch with other keys: consecutive block numbers, `_expand_conv`, `_depthwise_conv`, `_project_conv`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_REPEATS = {
    16: (1, 2, 2, 3, 3, 4, 1),
    21: (1, 3, 3, 4, 4, 5, 1),
    24: (1, 3, 3, 5, 5, 6, 1),
    30: (1, 4, 4, 6, 6, 8, 1),
}
"""Blocks per stage by the total number of blocks: Lite0; Lite1 and Lite2; Lite3; Lite4."""
_LITE_BY_WIDTHS = {(16, 320): 0, (21, 320): 1, (21, 352): 2, (24, 384): 3, (30, 448): 4}
"""Number of the network by its blocks and the channels of the last one."""

_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Keys of the first stage, which has no expansion."""
_LATER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def to_timm_keys(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the state dict with timm's keys if it is a published EfficientNet-Lite, else unchanged."""
    if "_conv_stem.weight" not in state or "_blocks.0._depthwise_conv.weight" not in state:
        return dict(state)
    blocks = 1 + max(int(match.group(1)) for key in state if (match := re.match(r"_blocks\.(\d+)\.", key)))
    if blocks not in _REPEATS:
        return dict(state)
    positions = [
        (stage, number) for stage, repeats in enumerate(_REPEATS[blocks]) for number in range(repeats)
    ]
    return {_rename(key, positions): tensor for key, tensor in state.items()}


def efficientnet_lite_number(state: Mapping[str, torch.Tensor]) -> int | None:
    """Return 0 to 4 for the keys and shapes of timm's tf_efficientnet_lite0 … 4; None for other networks."""
    last = state.get("blocks.6.0.conv_pwl.weight")
    if last is None or any(".se." in key for key in state):
        return None
    blocks = sum(bool(re.fullmatch(r"blocks\.\d+\.\d+\.conv_dw\.weight", key)) for key in state)
    return _LITE_BY_WIDTHS.get((blocks, last.shape[0]))


def _rename(key: str, positions: list[tuple[int, int]]) -> str:
    if not key.startswith("_blocks."):
        part, _, rest = key.partition(".")
        return f"{_OUTSIDE.get(part, part)}.{rest}"
    _, number, part, rest = key.split(".", 3)
    stage, within = positions[int(number)]
    names = _LATER if stage else _FIRST
    return f"blocks.{stage}.{within}.{names.get(part, part)}.{rest}"
