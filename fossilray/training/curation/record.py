"""The record of a curation, stored as JSON in the footer of its table."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from fossilray.core.config import CurationConfig


@dataclass(frozen=True)
class CuratedCluster:
    """One cluster: kept with a weight, or left out with a reason."""

    cluster: int
    family: int
    objects: int
    reason: str | None
    """The rule by which it is left out; None if it is kept."""
    weight: float
    """Weight of each of its crops; 0 if it is left out."""
    met: dict[str, float]
    """Share of its objects that meet each rule; rules that none meets are left out."""
    longest_um: float
    """Mean over its objects."""
    opacity: float
    """Mean over its objects."""


@dataclass(frozen=True)
class CuratedRun:
    """A curated run, with the digest of its settings."""

    url: str
    digest: str
    slides: int
    objects: int


@dataclass(frozen=True)
class CurationRecord:
    """The content of the footer's entry `fossilray`. Field names are part of the format."""

    schema_version: int
    fossilray: str
    runs: tuple[CuratedRun, ...]
    backbone: tuple[str, ...]
    """Name and SHA-256 of the backbone of the embeddings."""
    config: CurationConfig
    objects: int
    kept: int
    without_pixels: int
    without_vector: int
    clusters: tuple[CuratedCluster, ...]
    """Clusters with at least one object."""

    def to_json(self) -> bytes:
        return json.dumps(
            {**asdict(self), "config": self.config.model_dump(mode="json")},
            sort_keys=True,
            ensure_ascii=False,
        ).encode()
