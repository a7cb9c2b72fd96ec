"""Collective operations of the workers of one training; with one worker they do nothing.

The caller that starts several workers initialises torch.distributed (gloo on CPUs, NCCL on GPUs).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class DistributedGroup:
    """The workers of one training, from the view of one of them."""

    rank: int
    world: int
    device: torch.device

    def gather(self, vectors: torch.Tensor) -> torch.Tensor:
        """Concatenate the vectors (n, …) of all workers by rank to (world * n, …); gradients flow back.

        If every worker then computes the same loss and gradients are averaged over workers, parameters get the
        gradient that one worker with all crops would compute.
        """
        if self.world == 1:
            return vectors
        gathered: torch.Tensor = _Gather.apply(vectors, self.rank, self.world)
        return gathered

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its mean over workers."""
        if self.world == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        # One message for all parameters is faster than one for each.
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.world
        means = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))

    def all_max(self, values: Sequence[float]) -> list[float]:
        """Return the maximum of each value over all workers."""
        if self.world == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
        return [float(value) for value in shared.tolist()]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, vectors: torch.Tensor, rank: int, world: int) -> torch.Tensor:
        context.rank, context.count = rank, len(vectors)
        gathered = [torch.empty_like(vectors, memory_format=torch.contiguous_format) for _ in range(world)]
        torch.distributed.all_gather(gathered, vectors.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        gradient = gradient.contiguous()
        torch.distributed.all_reduce(gradient)
        first = context.rank * context.count
        return gradient[first : first + context.count], None, None
