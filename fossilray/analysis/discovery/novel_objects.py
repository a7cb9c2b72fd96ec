"""The objects of a run that are like none of a head's labels, slide by slide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import UsageError
from fossilray.models.heads import Head
from fossilray.models.heads.compatibility import require_same_backbone
from fossilray.models.heads.conformal import novelty_p_values
from fossilray.models.heads.head import BackboneReference
from fossilray.models.heads.uncertainty import novelty_reference
from fossilray.store import RunStore
from fossilray.store.dataset.dataset_store import source_run
from fossilray.store.derived.derived_store import DerivedStore
from fossilray.store.query.slide_objects import SlideObjects, backbone_of, read_slides

NOVELTY_P = 0.01
"""One crop in a hundred of the labelled genera is taken for something new."""


@dataclass(frozen=True)
class NovelInSlide:
    """Of one slide, the objects that are like no label."""

    slide: SlideObjects
    asked: int
    """Objects with pixels and a vector, novel or not."""
    rows: NDArray[np.intp]
    """(n,) of the slide's objects."""
    distance: NDArray[np.float32]
    p_value: NDArray[np.float32]
    nearest: NDArray[np.int32]
    """(n,) the class of the nearest label, far as it is."""

    @property
    def vectors(self) -> NDArray[np.float32]:
        """(n, d) of length 1."""
        return self.slide.vectors[self.rows]


@dataclass(frozen=True)
class NovelObjects:
    """Where to look for what nobody labelled, and from how far out on it counts."""

    store: RunStore
    head: Head
    novelty_p: float
    """At most this share of held-out labelled crops lies as far out as a novel object."""
    where: str | None
    embeddings: DerivedStore | None

    @staticmethod
    def of(
        store: RunStore,
        head: Head,
        *,
        novelty_p: float = NOVELTY_P,
        where: str | None = None,
        embeddings: str | None = None,
    ) -> NovelObjects:
        """embeddings: name of vectors of `fossilray embed`; None: the run's own.

        Raises:
            UsageError: the vectors are of another backbone than the head was taught on, lack slides, or so few crops
                were held out that none could be as odd as asked for.
            WeightsError: the head does not know how far its labels lie from each other.
            RunNotFound: there are no embeddings of this name.
        """
        novelty_reference(head)
        held_out = len(head.parameters["certainty.distance"])
        if 1 / (held_out + 1) > novelty_p:
            raise UsageError(
                f"{held_out} labelled crops were held out, so no object can be odder than one in {held_out + 1}; ask "
                f"for --novelty-p {1 / (held_out + 1):.2g} or more, or label more crops"
            )
        vectors = None
        if embeddings is None:
            name, *digests = backbone_of(store)
            made_by = BackboneReference(name=name, sha256=digests[0] if digests else "")
        else:
            vectors = DerivedStore.open(source_run(store), "embeddings", embeddings)
            recorded = vectors.record.backbone
            made_by = BackboneReference(name=str(recorded["name"]), sha256=str(recorded["sha256"]))
            missing = store.committed() - vectors.committed()
            if missing:
                raise UsageError(
                    f"the embeddings {embeddings} lack {len(missing)} slides, such as {min(missing)}; start "
                    "`fossilray embed` again first"
                )
        require_same_backbone(head.meta, made_by, subject=f"the vectors of {store.url}")
        return NovelObjects(store, head, novelty_p, where, vectors)

    def read(self) -> Iterator[NovelInSlide]:
        """Every slide that has objects to ask about.

        Raises:
            StoreError: its objects or vectors cannot be read.
        """
        known, held_out = novelty_reference(self.head), self.head.parameters["certainty.distance"]
        for slide in read_slides(self.store, run=0, where=self.where, embeddings=self.embeddings):
            asked = np.flatnonzero(~(slide.without_pixels | slide.without_vector))
            distance = known.distance(slide.vectors[asked])
            p_value = novelty_p_values(distance, held_out)
            novel = p_value <= self.novelty_p
            rows = asked[novel]
            nearest = known.nearest(slide.vectors[rows])
            yield NovelInSlide(slide, len(asked), rows, distance[novel], p_value[novel], nearest)
