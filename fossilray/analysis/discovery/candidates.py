"""Clusters of novel objects: their size, similarity and counts by well and depth."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.discovery.novel_objects import NovelInSlide, NovelObjects
from fossilray.core.version import __version__
from fossilray.models.clustering import Clusters
from fossilray.training.curation.sheets import ClusterSample

WellDepth = tuple[str, float | None]
"""A well and a measured depth in it."""


@dataclass(frozen=True)
class DepthCount:
    """Objects of one cluster in one well at one depth."""

    well: str
    measured_depth_m: float | None
    count: int
    of: int
    """All objects of the well and depth that were compared with the labels."""


@dataclass(frozen=True)
class Candidate:
    """A cluster of novel objects. Clusters are numbered by tightness, the tightest is 0."""

    cluster: int
    objects: int
    slides: int
    tightness: float
    """Mean cosine similarity to the centre."""
    novelty: float
    """Mean distance from the labels."""
    nearest: tuple[tuple[str, float], ...]
    """Up to three labelled genera that are nearest to its objects, with shares of objects."""
    longest_um: float
    opacity: float
    counts: tuple[DepthCount, ...]
    """By well, then depth."""

    @property
    def wells(self) -> tuple[str, ...]:
        """Wells of its objects, those with most objects first."""
        objects: Counter[str] = Counter()
        for count in self.counts:
            objects[count.well] += count.count
        return tuple(well for well, _ in sorted(objects.items(), key=lambda item: (-item[1], item[0])))


@dataclass(frozen=True)
class Discovery:
    """The record of a discovery, stored as JSON under `fossilray` in the footer of the table."""

    fossilray: str
    run: str
    run_digest: str
    backbone: str
    """SHA-256 of the backbone's weights."""
    embeddings: str | None
    genera: tuple[str, ...]
    novelty_p: float
    where: str | None
    slides: int
    objects: int
    """Objects that were compared with the labels: those with pixels and an embedding."""
    novel: int
    candidates: tuple[Candidate, ...]

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


@dataclass
class _Sums:
    objects: int = 0
    slides: int = 0
    cosine: float = 0.0
    novelty: float = 0.0
    longest_um: float = 0.0
    opacity: float = 0.0
    nearest: Counter[int] = field(default_factory=Counter)
    depths: Counter[WellDepth] = field(default_factory=Counter)


class CandidateAccumulator:
    """Sums over each cluster, accumulated slide by slide."""

    def __init__(self, clusters: Clusters, genera: tuple[str, ...], *, shown: int, seed: int) -> None:
        self._clusters, self._genera, self._seed = clusters, genera, seed
        self._sums = [_Sums() for _ in range(len(clusters))]
        self._compared: Counter[WellDepth] = Counter()
        self._slides = 0
        self.sample = ClusterSample.empty(shown=shown)
        """Objects for the contact sheets."""

    def add(self, novel: NovelInSlide) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Add a slide; return the cluster of each novel object and its cosine similarity to the centre, both (n,)."""
        slide = novel.slide
        depth = (slide.well, slide.measured_depth_m)
        self._compared[depth] += novel.compared
        rng = np.random.default_rng([self._seed, self._slides])
        self._slides += 1
        if not len(novel.rows):
            return np.zeros(0, np.int32), np.zeros(0, np.float32)
        cluster = self._clusters.assign(novel.vectors)
        centre = self._clusters.centres[cluster]
        cosine = (novel.vectors * centre).sum(axis=1) / np.maximum(np.linalg.norm(centre, axis=1), 1e-12)
        self.sample = self.sample.add(slide, novel.rows, cluster, rng.random(len(novel.rows)))
        for c in np.unique(cluster).tolist():
            is_member, sums = cluster == c, self._sums[c]
            rows = novel.rows[is_member]
            sums.objects += len(rows)
            sums.slides += 1
            sums.cosine += float(cosine[is_member].sum())
            sums.novelty += float(novel.distance[is_member].sum())
            sums.longest_um += float(slide.longest_um[rows].sum())
            sums.opacity += float(slide.opacity[rows].sum())
            sums.nearest.update(novel.nearest[is_member].tolist())
            sums.depths[depth] += len(rows)
        return cluster, cosine.astype(np.float32)

    def finish(self, objects: NovelObjects) -> tuple[Discovery, NDArray[np.int32]]:
        """Return the record, and the number of each cluster in it: (clusters,), -1 for an empty cluster."""
        tightness = np.array([sums.cosine / sums.objects if sums.objects else -2.0 for sums in self._sums])
        order = [int(c) for c in np.argsort(-tightness, kind="stable") if self._sums[c].objects]
        number = np.full(len(self._sums), -1, np.int32)
        number[order] = np.arange(len(order))
        record = Discovery(
            fossilray=__version__,
            run=objects.store.url,
            run_digest=objects.store.read_run().digest,
            backbone=objects.head.meta.backbone.sha256,
            embeddings=objects.embeddings,
            genera=self._genera,
            novelty_p=objects.novelty_p,
            where=objects.where,
            slides=self._slides,
            objects=sum(self._compared.values()),
            novel=sum(sums.objects for sums in self._sums),
            candidates=tuple(self._candidate(c, position) for position, c in enumerate(order)),
        )
        return record, number

    def _candidate(self, cluster: int, number: int) -> Candidate:
        sums = self._sums[cluster]
        depths = sorted(sums.depths, key=lambda key: (key[0], key[1] is None, key[1] or 0.0))
        return Candidate(
            cluster=number,
            objects=sums.objects,
            slides=sums.slides,
            tightness=sums.cosine / sums.objects,
            novelty=sums.novelty / sums.objects,
            nearest=tuple(
                (self._genera[c], count / sums.objects) for c, count in sums.nearest.most_common(3)
            ),
            longest_um=sums.longest_um / sums.objects,
            opacity=sums.opacity / sums.objects,
            counts=tuple(DepthCount(*depth, sums.depths[depth], self._compared[depth]) for depth in depths),
        )
