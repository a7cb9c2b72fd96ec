"""Clusters of objects that are like no label: how many, where in which wells, how much alike."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from fossilray import __version__
from fossilray.analysis.discovery.novel_objects import NovelInSlide, NovelObjects
from fossilray.models.clustering import Clusters
from fossilray.training.curation.sheets import ClusterSample

Place = tuple[str, float | None]
"""A well and a measured depth in it."""


@dataclass(frozen=True)
class PlaceCount:
    """Objects of one cluster in one well at one depth, and all there that were asked about."""

    well: str
    measured_depth_m: float | None
    count: int
    of: int


@dataclass(frozen=True)
class Candidate:
    """A cluster of objects that are like no label; the tightest has the number 0."""

    cluster: int
    objects: int
    slides: int
    tightness: float
    """Mean cosine with the centre: 1 where all look the same."""
    novelty: float
    """Mean distance from the labels."""
    nearest: tuple[tuple[str, float], ...]
    """Up to three labelled genera that its objects are nearest to, with the share of objects."""
    longest_um: float
    opacity: float
    counts: tuple[PlaceCount, ...]
    """By well, then depth."""

    @property
    def wells(self) -> tuple[str, ...]:
        """Those with most of its objects first."""
        counted: Counter[str] = Counter()
        for one in self.counts:
            counted[one.well] += one.count
        return tuple(well for well, _ in sorted(counted.items(), key=lambda one: (-one[1], one[0])))


@dataclass(frozen=True)
class Discovery:
    """What the footer of the table holds under `fossilray`."""

    fossilray: str
    run: str
    run_digest: str
    backbone: str
    """sha256 of what made the vectors."""
    embeddings: str | None
    genera: tuple[str, ...]
    novelty_p: float
    where: str | None
    slides: int
    objects: int
    """Asked about: with pixels and a vector."""
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
    places: Counter[Place] = field(default_factory=Counter)


class CandidateAccumulator:
    """What is known of each cluster while slides come in."""

    def __init__(self, clusters: Clusters, genera: tuple[str, ...], *, shown: int, seed: int) -> None:
        self._clusters, self._genera, self._seed = clusters, genera, seed
        self._sums = [_Sums() for _ in range(len(clusters))]
        self._asked: Counter[Place] = Counter()
        self._slides = 0
        self.drawn = ClusterSample.nothing(shown=shown)

    def add(self, one: NovelInSlide) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Count a slide in; the cluster of each object that is like no label, and its cosine with the centre."""
        slide = one.slide
        place = (slide.well, slide.measured_depth_m)
        self._asked[place] += one.asked
        rng = np.random.default_rng([self._seed, self._slides])
        self._slides += 1
        if not len(one.rows):
            return np.zeros(0, np.int32), np.zeros(0, np.float32)
        cluster = self._clusters.assign(one.vectors)
        centre = self._clusters.centres[cluster]
        cosine = (one.vectors * centre).sum(axis=1) / np.maximum(np.linalg.norm(centre, axis=1), 1e-12)
        self.drawn = self.drawn.among(slide, one.rows, cluster, rng.random(len(one.rows)))
        for c in np.unique(cluster).tolist():
            own, sums = cluster == c, self._sums[c]
            rows = one.rows[own]
            sums.objects += len(rows)
            sums.slides += 1
            sums.cosine += float(cosine[own].sum())
            sums.novelty += float(one.distance[own].sum())
            sums.longest_um += float(slide.longest_um[rows].sum())
            sums.opacity += float(slide.opacity[rows].sum())
            sums.nearest.update(one.nearest[own].tolist())
            sums.places[place] += len(rows)
        return cluster, cosine.astype(np.float32)

    def conclude(self, asked: NovelObjects) -> tuple[Discovery, NDArray[np.int32]]:
        """The record, and (clusters,) the number that each cluster has in it, -1 of empty ones."""
        tightness = np.array([one.cosine / one.objects if one.objects else -2.0 for one in self._sums])
        order = [int(c) for c in np.argsort(-tightness, kind="stable") if self._sums[c].objects]
        number = np.full(len(self._sums), -1, np.int32)
        number[order] = np.arange(len(order))
        record = Discovery(
            fossilray=__version__,
            run=asked.store.url,
            run_digest=asked.store.read_run().digest,
            backbone=asked.head.meta.backbone.sha256,
            embeddings=None if asked.embeddings is None else asked.embeddings.name,
            genera=self._genera,
            novelty_p=asked.novelty_p,
            where=asked.where,
            slides=self._slides,
            objects=sum(self._asked.values()),
            novel=sum(one.objects for one in self._sums),
            candidates=tuple(self._candidate(c, place) for place, c in enumerate(order)),
        )
        return record, number

    def _candidate(self, cluster: int, number: int) -> Candidate:
        sums = self._sums[cluster]
        places = sorted(sums.places, key=lambda one: (one[0], one[1] is None, one[1] or 0.0))
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
            counts=tuple(PlaceCount(*place, sums.places[place], self._asked[place]) for place in places),
        )
