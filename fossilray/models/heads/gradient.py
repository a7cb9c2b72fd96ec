"""Linear and two-layer heads, trained by gradient descent."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BATCH = 256
_LEARNING_RATE = 5e-3
_WEIGHT_DECAY = 1.0
_DROPOUT = 0.3
_SMOOTHING = 0.1
"""Two layers memorise few labels and would be overconfident."""


def fit_layers(
    vectors: NDArray[np.float32], label: NDArray[np.int64], *, hidden: int | None, steps: int, seed: int
) -> dict[str, NDArray[Any]]:
    """Fit one linear layer, or two with a ReLU between, with AdamW on the cross-entropy of random batches.

    The learning rate follows half a cosine to 0. Random numbers come from an own generator; the global one is not used.
    """
    import torch
    import torch.nn.functional as F

    rng = torch.Generator().manual_seed(seed)
    inputs, truth = torch.from_numpy(np.ascontiguousarray(vectors)), torch.from_numpy(label)
    classes, dimension = int(label.max()) + 1, vectors.shape[1]
    layers: dict[str, torch.Tensor] = {}
    if hidden is not None:
        # The initialisation of PyTorch: uniform in ± 1 / sqrt(inputs).
        initial = torch.rand(hidden, dimension, generator=rng) * 2 - 1
        layers |= {"hidden.weight": initial / math.sqrt(dimension), "hidden.bias": torch.zeros(hidden)}
    # The last layer starts at zero, so that all classes are equally probable at first.
    layers |= {"weight": torch.zeros(classes, hidden or dimension), "bias": torch.zeros(classes)}
    for layer in layers.values():
        layer.requires_grad_()
    kernels = [layer for name, layer in layers.items() if name.endswith("weight")]
    biases = [layer for name, layer in layers.items() if name.endswith("bias")]
    groups: list[dict[str, Any]] = [{"params": kernels}, {"params": biases, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = _LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        rows = torch.randperm(len(truth), generator=rng)[:_BATCH]
        values = inputs[rows]
        if hidden is not None:
            values = F.relu(F.linear(values, layers["hidden.weight"], layers["hidden.bias"]))
            # F.dropout does not accept a generator.
            values = values * (torch.rand(values.shape, generator=rng) >= _DROPOUT) / (1 - _DROPOUT)
        logits = F.linear(values, layers["weight"], layers["bias"])
        loss = F.cross_entropy(logits, truth[rows], label_smoothing=0.0 if hidden is None else _SMOOTHING)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return {name: tensor.detach().numpy() for name, tensor in layers.items()}
