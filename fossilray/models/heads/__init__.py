"""Heads: classifiers of embeddings, trained on few labels and stored as plain arrays."""

from fossilray.core.config.choices import HeadKind, HoldOutUnit, NoveltyKind
from fossilray.models.heads.fit import train_head
from fossilray.models.heads.head import BackboneReference, Head, HeadMeta, Scaler, UncertaintyMeta
from fossilray.models.heads.head_file import head_digest, load_head, save_head

__all__ = [
    "BackboneReference",
    "Head",
    "HeadKind",
    "HeadMeta",
    "HoldOutUnit",
    "NoveltyKind",
    "Scaler",
    "UncertaintyMeta",
    "head_digest",
    "load_head",
    "save_head",
    "train_head",
]
