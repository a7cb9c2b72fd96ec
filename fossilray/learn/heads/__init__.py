"""Classifiers over vectors: trained on few labels, kept in files that hold numbers alone."""

from fossilray.learn.heads.head import (
    HEAD_KINDS,
    BackboneOf,
    CertaintyMeta,
    Head,
    HeadKind,
    HeadMeta,
    HeldOutBy,
    NoveltyKind,
    Scaler,
)
from fossilray.learn.heads.head_file import head_digest, load_head, save_head
from fossilray.learn.heads.training import train_head

__all__ = [
    "HEAD_KINDS",
    "BackboneOf",
    "CertaintyMeta",
    "Head",
    "HeadKind",
    "HeadMeta",
    "HeldOutBy",
    "NoveltyKind",
    "Scaler",
    "head_digest",
    "load_head",
    "save_head",
    "train_head",
]
