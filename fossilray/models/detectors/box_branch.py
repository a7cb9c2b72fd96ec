"""The box branch of a detection head at selected anchors, with convolutions as matrix products."""

from __future__ import annotations

from typing import Any, TypeAlias, cast

import torch
from torch import nn

_DENSE_SHARE = 0.1
"""Share of a level's anchors above which the branch runs densely; on a CPU both cost about the same there."""

Where: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Image, row and column of each anchor."""

_ELEMENTWISE = (nn.SiLU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.Hardswish, nn.Mish, nn.ELU, nn.Identity)


class BoxBranch(nn.Module):
    """Two 3 x 3 convolutions and a 1 x 1 convolution, in float32.

    Neighbouring anchors share outputs of the first convolution, so it is computed once at each selected anchor and
    each neighbour of one.
    """

    def __init__(self, branch: Any) -> None:
        super().__init__()
        self.branch = branch
        self.matrices = nn.ParameterList(_as_matrix(_convolution(layer)) for layer in branch)

    def forward(self, features: torch.Tensor, where: Where) -> torch.Tensor:
        """Return distances (n, 4), in strides, from each anchor to the left, top, right and bottom of its box.

        features: (b, c, h, w).
        """
        image, row, column = where
        logits: torch.Tensor
        if len(image) > _DENSE_SHARE * features.shape[0] * features.shape[2] * features.shape[3]:
            logits = self.branch(features.float())[image, :, row, column]
        else:
            logits = self._at(features, where)
        # The expectation over bins (Li et al. 2020, Generalized Focal Loss, eq. 5); with one bin it is the logit.
        per_side = logits.view(len(logits), 4, -1)
        if per_side.shape[2] == 1:
            return logits
        distances: torch.Tensor = per_side.softmax(2) @ torch.arange(
            per_side.shape[2], device=logits.device, dtype=logits.dtype
        )
        return distances

    def _at(self, features: torch.Tensor, where: Where) -> torch.Tensor:
        count, channels, height, width = features.shape
        around, inside = _neighbours(where, height, width)
        near = torch.zeros(count * height * width, dtype=torch.bool, device=features.device)
        near[around] = True
        (pixel,) = near.nonzero(as_tuple=True)
        column, row = pixel % width, pixel // width
        first_around, first_inside = _neighbours((row // height, row % height, column), height, width)
        pixels = features.permute(0, 2, 3, 1).reshape(-1, channels)
        patches = pixels.index_select(0, first_around.flatten()).view(len(pixel), -1, channels).float()
        hidden = self._layer(0, (patches * first_inside[..., None]).flatten(1))
        # A last row of zeros represents pixels outside the image.
        hidden = torch.cat([hidden, hidden.new_zeros(1, hidden.shape[1])])
        position = near.cumsum(0) - 1
        chosen = torch.where(inside, position[around], len(pixel)).flatten()
        patches = hidden.index_select(0, chosen).view(len(around), -1)
        return self._layer(2, self._layer(1, patches))

    def _layer(self, index: int, patches: torch.Tensor) -> torch.Tensor:
        layer: Any = self.branch[index]
        product = torch.addmm(cast(torch.Tensor, _convolution(layer).bias), patches, self.matrices[index])
        return product if isinstance(layer, nn.Conv2d) else cast(torch.Tensor, layer.act(product))


def is_box_branch(branch: Any, *, bins: int) -> bool:
    """Return whether BoxBranch can compute this branch."""
    if not isinstance(branch, nn.Sequential) or len(branch) != 3:
        return False
    first, second, last = branch
    activated = all(
        {name for name, _ in layer.named_children()} == {"conv", "act"}  # so its norm is fused
        and isinstance(layer.act, _ELEMENTWISE)
        and _is_plain(layer.conv, side=3)
        for layer in (first, second)
    )
    return activated and _is_plain(last, side=1) and bool(last.out_channels == 4 * bins)


def _is_plain(conv: Any, *, side: int) -> bool:
    return (
        isinstance(conv, nn.Conv2d)
        and conv.kernel_size == (side, side)
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding == (side // 2, side // 2)
        and conv.padding_mode == "zeros"
        and conv.groups == 1
        and conv.bias is not None
    )


def _convolution(layer: Any) -> nn.Conv2d:
    conv: nn.Conv2d = layer if isinstance(layer, nn.Conv2d) else layer.conv
    return conv


def _as_matrix(conv: nn.Conv2d) -> nn.Parameter:
    """Return the kernel as a matrix (k * k * c_in, c_out), row by row with channels innermost as in `_neighbours`."""
    matrix = conv.weight.detach().permute(2, 3, 1, 0).reshape(-1, conv.out_channels)
    return nn.Parameter(matrix.contiguous(), requires_grad=False)


def _neighbours(where: Where, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the flat index (n, 9) in (b * h * w) of the 3 x 3 anchors around each, and whether they are in the image.

    An index outside the image is replaced by that of the nearest anchor inside.
    """
    image, row, column = where
    step = torch.arange(-1, 2, device=row.device)
    rows = row[:, None] + step.repeat_interleave(3)
    columns = column[:, None] + step.repeat(3)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    return (image[:, None] * height + rows) * width + columns, inside
