"""Contrastive losses: vectors of the same class, or of the same crop, attract; all others repel."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def supervised_contrast(vectors: torch.Tensor, label: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Supervised contrastive loss L_out (Khosla et al. 2020, eq. 2) of vectors (n, d) of any length.

    The mean over crops that have another of their class in the batch.
    """
    unit = F.normalize(vectors, dim=1)
    own = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    logits = (unit @ unit.T / temperature).masked_fill(own, float("-inf"))
    log_share = logits - logits.logsumexp(dim=1, keepdim=True)
    positive = (label[:, None] == label[None, :]) & ~own
    count = positive.sum(dim=1)
    mean = log_share.masked_fill(~positive, 0.0).sum(dim=1) / count.clamp(min=1)
    return -mean[count > 0].mean()


def nt_xent(first: torch.Tensor, second: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """NT-Xent (Chen et al. 2020, eq. 1) of two views (n, d) of the same crops, averaged over all 2 n vectors.

    It is supervised contrast with every crop a class of its own.
    """
    own = torch.arange(len(first), device=first.device).repeat(2)
    return supervised_contrast(torch.cat([first, second]), own, temperature=temperature)
