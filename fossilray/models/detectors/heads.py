"""Heads of ultralytics networks: candidates from features, with boxes computed only at anchors of sufficient score."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fossilray.models.detectors.box_branch import BoxBranch, is_box_branch
from fossilray.models.detectors.boxes import (
    MAX_CANDIDATES,
    Candidates,
    RowLayout,
    find_candidates,
    rows_last,
)


def replace_head(network: Any, *, confidence: float, most: int) -> None:
    """Replace the head of an ultralytics network by one that returns the candidates of each image, in float32.

    most: maximum rows per image of a head with suppression inside.
    """
    head = network.model[-1]
    head.max_det = most
    replacement: Any = (
        SparseHead(head, confidence=confidence)
        if has_box_branches(head)
        else DenseHead(head, confidence=confidence)
    )
    # ultralytics finds the inputs of a layer by these attributes.
    replacement.f, replacement.i, replacement.type = head.f, head.i, head.type
    network.model[-1] = replacement


def has_box_branches(head: Any) -> bool:
    """Return whether this is the standard head, whose boxes can be computed at selected anchors."""
    return (
        type(head).__name__ == "Detect"
        and not head.end2end
        and all(is_box_branch(branch, bins=head.reg_max) for branch in head.cv2)
        and all(getattr(branch[-1], "bias", None) is not None for branch in head.cv3)
    )


class SparseHead(nn.Module):
    """The standard head: scores at every anchor, boxes only at anchors whose score reaches the confidence."""

    def __init__(self, head: Any, *, confidence: float) -> None:
        super().__init__()
        self._confidence = confidence
        self._strides = [float(stride) for stride in head.stride]
        self.score_branches = head.cv3
        self.box_branches = nn.ModuleList(BoxBranch(branch) for branch in head.cv2)
        self.convert(torch.float32)

    def convert(self, dtype: torch.dtype) -> None:
        """Compute scores in `dtype`; boxes stay in float32, because half precision would round positions."""
        exact = [_last_bias(branch).float() for branch in self.score_branches]
        self.score_branches.to(dtype)
        # Biases are large (few anchors hold an object), so that their rounding would shift every score.
        self._shifts = [
            before - _last_bias(branch).float()
            for before, branch in zip(exact, self.score_branches, strict=True)
        ]

    def forward(self, features: list[torch.Tensor]) -> list[Candidates]:
        """Return the candidates of each image in the order of its anchors: level by level, row by row."""
        scores = [
            _best_class(branch(level), shift).sigmoid()
            for branch, level, shift in zip(self.score_branches, features, self._shifts, strict=True)
        ]
        images, corners, kept_scores = [], [], []
        for level, (score, chosen) in enumerate(zip(scores, _select(scores, self._confidence), strict=True)):
            image, row, column = where = chosen.nonzero(as_tuple=True)
            if len(image) == 0:
                continue
            distance = self.box_branches[level](features[level], where)
            centre = torch.stack([column, row], 1) + 0.5
            box = torch.cat([centre - distance[:, :2], centre + distance[:, 2:]], 1)
            images.append(image)
            corners.append(box * self._strides[level])
            kept_scores.append(score[where])
        count = len(features[0])
        if not images:
            empty = scores[0].new_empty(0)
            return [(empty.view(0, 4), empty)] * count
        image, order = torch.cat(images).sort(stable=True)
        sizes = torch.bincount(image, minlength=count).tolist()
        box, score = torch.cat(corners)[order], torch.cat(kept_scores)[order]
        return list(zip(torch.split(box, sizes), torch.split(score, sizes), strict=True))


class DenseHead(nn.Module):
    """Any other head of ultralytics, unmodified, in float32."""

    def __init__(self, head: Any, *, confidence: float) -> None:
        super().__init__()
        self._confidence = confidence
        self.head = head

    def convert(self, dtype: torch.dtype) -> None:
        """Do nothing: scores and boxes share layers here, and boxes need float32."""

    def forward(self, features: list[torch.Tensor]) -> list[Candidates]:
        # A head stores the anchors of its last call. A copy per call (sharing the weights) makes it thread-safe.
        rows = copy.copy(self.head)([level.float() for level in features])[0]
        layout: RowLayout = "boxes" if self.head.end2end else "classes"
        return find_candidates(rows_last(rows, layout=layout), layout=layout, confidence=self._confidence)


def _last_bias(branch: Any) -> torch.Tensor:
    bias: torch.Tensor = branch[-1].bias.detach().clone()
    return bias


def _best_class(logits: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    if logits.shape[1] == 1:
        return logits[:, 0].float() + shift
    return (logits.float() + shift[:, None, None]).amax(1)


def _select(scores: Sequence[torch.Tensor], confidence: float) -> list[torch.Tensor]:
    """Select the scores of each level that reach the confidence and are among the best MAX_CANDIDATES of the image."""
    chosen = [score >= confidence for score in scores]
    if sum(int(level[0].numel()) for level in chosen) <= MAX_CANDIDATES:
        return chosen
    if max(sum(level.flatten(1).sum(1) for level in chosen).tolist()) <= MAX_CANDIDATES:  # type: ignore[union-attr]
        return chosen
    all_scores = torch.cat([score.flatten(1) for score in scores], 1)
    lowest = all_scores.topk(MAX_CANDIDATES, dim=1).values[:, -1, None, None]
    return [level & (score >= lowest) for level, score in zip(chosen, scores, strict=True)]
