"""Configuration of supervised training: metric learning, and transfer of a network to new classes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fossilray.core.config.base import Section
from fossilray.core.config.choices import MetricLossName, MetricMiner


class MetricConfig(Section):
    """Deep metric learning with the losses and miners of pytorch-metric-learning."""

    loss: MetricLossName = Field(
        "triplet",
        description="Loss: triplet (Schroff et al. 2015), multisimilarity (Wang et al. 2019), proxyanchor "
        "(Kim et al. 2020) or supcon (Khosla et al. 2020).",
    )
    miner: MetricMiner = Field(
        "auto",
        description="Miner that selects pairs of a batch. auto: semihard triplets for triplet, its own miner "
        "for multisimilarity, all pairs for the others; hard: hardest positive and negative of "
        "each crop (Hermans et al. 2017).",
    )
    margin: float | None = Field(
        None, gt=0, description="Margin of triplet and proxyanchor; unset: 0.2 and 0.1, as in the papers."
    )
    temperature: float = Field(0.1, gt=0, description="Temperature of supcon.")
    dimension: int | None = Field(
        None,
        ge=2,
        description="Dimension of the vectors, by a new last layer (Karaderi et al. 2022: 128); unset: that "
        "of the network.",
    )
    cross_entropy_weight: float = Field(
        0.0, ge=0, description="Weight of an additional cross-entropy over the classes."
    )
    classes_per_batch: int = Field(16, ge=2, description="Number of classes in a batch, chosen at random.")
    crops_per_class: int = Field(4, ge=2, description="Crops of each class.")
    balance_groups: bool = Field(
        False, description="Draw equally many classes from each source, whatever their numbers of classes."
    )
    proxy_rate: float = Field(
        100.0,
        gt=0,
        description="For proxyanchor: learning rate of the proxies, as a multiple of the learning rate (Kim "
        "et al. 2020).",
    )


class TransferConfig(Section):
    """Fine-tuning of a pretrained network on new classes with cross-entropy (Liu et al. 2022)."""

    layers: Literal["deep_half", "all"] = Field(
        "deep_half",
        description="Layers that are trained. deep_half: the second half of the network's stages; all: all "
        "stages.",
    )
    imbalance: Literal["none", "sampling", "weights"] = Field(
        "sampling",
        description="Treatment of classes of unequal size. sampling: all classes are sampled equally often; "
        "weights: the loss weighs crops of rare classes more; none: no correction.",
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="Dropout of the features before the classifier.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Label smoothing of the cross-entropy.")
