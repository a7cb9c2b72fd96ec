"""What a network's head makes of its features: candidates, with boxes computed only where a score asks for one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fossilray.models.detectors.box_branch import BoxBranch, is_box_branch
from fossilray.models.detectors.boxes import (
    MOST_CANDIDATES,
    Candidates,
    RowLayout,
    find_candidates,
    rows_last,
)


def replace_head(network: Any, *, confidence: float, most: int) -> None:
    """Make an ultralytics network put out the candidates of each image, in float32.

    most: rows an image that a head with suppression inside may put out.
    """
    head = network.model[-1]
    head.max_det = most
    ours: Any = (
        SparseHead(head, confidence=confidence)
        if has_box_branches(head)
        else DenseHead(head, confidence=confidence)
    )
    ours.f, ours.i, ours.type = head.f, head.i, head.type  # by these ultralytics finds a layer's inputs
    network.model[-1] = ours


def has_box_branches(head: Any) -> bool:
    """The head is the standard one, whose boxes can be computed at chosen anchors alone."""
    return (
        type(head).__name__ == "Detect"
        and not head.end2end
        and all(is_box_branch(branch, bins=head.reg_max) for branch in head.cv2)
        and all(getattr(branch[-1], "bias", None) is not None for branch in head.cv3)
    )


class SparseHead(nn.Module):
    """The standard head: scores at every anchor, boxes only at those whose score reaches the confidence."""

    def __init__(self, head: Any, *, confidence: float) -> None:
        super().__init__()
        self._confidence = confidence
        self._strides = [float(stride) for stride in head.stride]
        self.score_branches = head.cv3
        self.box_branches = nn.ModuleList(BoxBranch(branch) for branch in head.cv2)
        self.convert(torch.float32)

    def convert(self, dtype: torch.dtype) -> None:
        """Compute scores in `dtype`; boxes stay in float32, for in half precision a position would be rounded."""
        exact = [_last_bias(branch).float() for branch in self.score_branches]
        self.score_branches.to(dtype)
        # Biases are large (few anchors hold an object): what rounding took from them would shift every score.
        self._shifts = [
            before - _last_bias(branch).float()
            for before, branch in zip(exact, self.score_branches, strict=True)
        ]

    def forward(self, features: list[torch.Tensor]) -> list[Candidates]:
        """Per image the candidates in the order of its anchors: level by level, row by row."""
        scores = [
            _best_class(branch(level), shift).sigmoid()
            for branch, level, shift in zip(self.score_branches, features, self._shifts, strict=True)
        ]
        images, corners, kept_scores = [], [], []
        for level, (score, chosen) in enumerate(zip(scores, _choose(scores, self._confidence), strict=True)):
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
            nothing = scores[0].new_empty(0)
            return [(nothing.view(0, 4), nothing)] * count
        image, order = torch.cat(images).sort(stable=True)
        sizes = torch.bincount(image, minlength=count).tolist()
        box, score = torch.cat(corners)[order], torch.cat(kept_scores)[order]
        return list(zip(torch.split(box, sizes), torch.split(score, sizes), strict=True))


class DenseHead(nn.Module):
    """Any other head of ultralytics, run as it is, in float32."""

    def __init__(self, head: Any, *, confidence: float) -> None:
        super().__init__()
        self._confidence = confidence
        self.head = head

    def convert(self, dtype: torch.dtype) -> None:
        """Nothing: scores and boxes share layers here, and boxes need float32."""

    def forward(self, features: list[torch.Tensor]) -> list[Candidates]:
        # A head remembers the anchors of its last call. A copy for each call (its weights are shared) keeps threads
        # out of each other's.
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


def _choose(scores: Sequence[torch.Tensor], confidence: float) -> list[torch.Tensor]:
    """Where the scores of each level reach the confidence, and are among the best MOST_CANDIDATES of their image."""
    chosen = [score >= confidence for score in scores]
    if sum(int(level[0].numel()) for level in chosen) <= MOST_CANDIDATES:
        return chosen
    if max(sum(level.flatten(1).sum(1) for level in chosen).tolist()) <= MOST_CANDIDATES:  # type: ignore[union-attr]
        return chosen
    together = torch.cat([score.flatten(1) for score in scores], 1)
    least = together.topk(MOST_CANDIDATES, dim=1).values[:, -1, None, None]
    return [level & (score >= least) for level, score in zip(chosen, scores, strict=True)]
