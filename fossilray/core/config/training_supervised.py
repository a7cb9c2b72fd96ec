"""What trainings on labels alone can be told: metric learning, and transfer of a network to new classes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fossilray.core.config.base import Section
from fossilray.core.config.choices import MetricLoss, MetricMiner


class MetricConfig(Section):
    """Deep metric learning on labels, with the losses and miners of pytorch-metric-learning."""

    loss: MetricLoss = Field(
        "triplet",
        description="triplet (Schroff et al. 2015), multisimilarity (Wang et al. 2019), proxyanchor (Kim et al. 2020) "
        "or supcon (Khosla et al. 2020).",
    )
    miner: MetricMiner = Field(
        "auto",
        description="Which pairs of a batch count. auto: semihard triplets for triplet, its own miner for "
        "multisimilarity, all for the others; hard: hardest positive and negative of each crop (Hermans et al. 2017).",
    )
    margin: float | None = Field(
        None, gt=0, description="Of triplet and proxyanchor; unset: 0.2 and 0.1, those of the papers."
    )
    temperature: float = Field(0.1, gt=0, description="Of supcon.")
    dimension: int | None = Field(
        None,
        ge=2,
        description="Length of the vectors, by a new last layer (Karaderi et al. 2022: 128); unset: as the network "
        "gives them.",
    )
    cross_entropy_weight: float = Field(
        0.0, ge=0, description="Weight of a cross-entropy over the classes beside the loss."
    )
    classes_per_batch: int = Field(16, ge=2, description="Classes of a batch, drawn at random.")
    crops_per_class: int = Field(4, ge=2, description="Crops of each.")
    balance_groups: bool = Field(
        False, description="As many classes of each source in a batch, however many classes a source has."
    )
    proxy_rate: float = Field(
        100.0,
        gt=0,
        description="Of proxyanchor: times the learning rate by which proxies learn (Kim et al. 2020).",
    )


class TransferConfig(Section):
    """A network with weights of its own, taught new classes by cross-entropy (Liu et al. 2022)."""

    layers: Literal["deep_half", "all"] = Field(
        "deep_half",
        description="deep_half: the first half of the network's stages keeps its weights; all: none does.",
    )
    imbalance: Literal["none", "sampling", "weights"] = Field(
        "sampling",
        description="Of classes unequally large. sampling: all are shown alike often; weights: a crop of a rare class "
        "costs more; none: as they come.",
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="Of the features before the classes.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Of the cross-entropy.")
