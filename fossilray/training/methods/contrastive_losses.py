"""Contrastive losses: vectors of one class, or of one crop, attract; all others repel."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def supervised_contrast(vectors: torch.Tensor, label: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Return the supervised contrastive loss L_out (Khosla et al. 2020, eq. 2) of vectors (n, d) with labels (n,).

    Vectors are normalised first. The loss is the mean over crops with another crop of their class in the batch.
    """
    unit = F.normalize(vectors, dim=1)
    is_self = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    logits = (unit @ unit.T / temperature).masked_fill(is_self, float("-inf"))
    log_probability = logits - logits.logsumexp(dim=1, keepdim=True)
    positive = (label[:, None] == label[None, :]) & ~is_self
    count = positive.sum(dim=1)
    mean = log_probability.masked_fill(~positive, 0.0).sum(dim=1) / count.clamp(min=1)
    return -mean[count > 0].mean()


def nt_xent(first: torch.Tensor, second: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Return NT-Xent (Chen et al. 2020, eq. 1) of two views (n, d) of the same crops, mean over all 2 n vectors.

    It equals the supervised contrastive loss with every crop as a class.
    """
    crop = torch.arange(len(first), device=first.device).repeat(2)
    return supervised_contrast(torch.cat([first, second]), crop, temperature=temperature)
