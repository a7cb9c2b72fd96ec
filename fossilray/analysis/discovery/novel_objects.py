"""Novel objects of a run: those far from every label of a head, slide by slide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import UsageError
from fossilray.models.heads import Head
from fossilray.models.heads.compatibility import require_same_backbone
from fossilray.models.heads.conformal import novelty_p_values
from fossilray.models.heads.uncertainty import novelty_reference
from fossilray.store import RunStore
from fossilray.store.query.slide_objects import SlideObjects, read_slides
from fossilray.store.query.vectors import VectorReader

NOVELTY_P = 0.01
"""Default threshold: one in a hundred objects of the labelled genera is taken for novel."""


@dataclass(frozen=True)
class NovelInSlide:
    """The n novel objects of one slide."""

    slide: SlideObjects
    compared: int
    """Objects with pixels and an embedding, novel or not."""
    rows: NDArray[np.intp]
    """(n,) rows of `slide`."""
    distance: NDArray[np.float32]
    """(n,) distance from the labels."""
    p_value: NDArray[np.float32]
    """(n,) share of held-out labelled crops that are at least as far."""
    nearest: NDArray[np.int32]
    """(n,) class of the nearest label."""

    @property
    def vectors(self) -> NDArray[np.float32]:
        """(n, dimension) unit vectors."""
        return self.slide.vectors[self.rows]


@dataclass(frozen=True)
class NovelObjects:
    """The novel objects of a run with respect to a head's labels."""

    store: RunStore
    head: Head
    novelty_p: float
    """An object is novel if at most this share of held-out labelled crops is as far from the labels."""
    where: str | None
    embeddings: str | None

    @staticmethod
    def open(
        store: RunStore,
        head: Head,
        *,
        novelty_p: float = NOVELTY_P,
        where: str | None = None,
        embeddings: str | None = None,
    ) -> NovelObjects:
        """Check that a head can be compared with a run.

        Args:
            where: SQL condition on columns of `objects`; only these are read.
            embeddings: name of embeddings of `fossilray embed`; None: the run's own.

        Raises:
            UsageError: the embeddings are of another backbone than the head's, or lack slides; or too few crops were
                held out for this `novelty_p`.
            WeightsError: the head has no novelty reference.
            RunNotFound: there are no embeddings of this name.
        """
        novelty_reference(head)
        held_out = len(head.uncertainty_arrays["distance"])
        if 1 / (held_out + 1) > novelty_p:
            raise UsageError(
                f"with {held_out} labelled crops held out, no p-value is below one in {held_out + 1}; give --novelty-p "
                f"{1 / (held_out + 1):.2g} or more, or label more crops"
            )
        reader = VectorReader(store, embeddings)
        if embeddings is not None:
            missing = store.committed() - reader.committed()
            if missing:
                raise UsageError(
                    f"the embeddings {embeddings} lack {len(missing)} slides, such as {min(missing)}; start "
                    "`fossilray embed` again first"
                )
        require_same_backbone(head.meta, reader.backbone, subject=f"the vectors of {store.url}")
        return NovelObjects(store, head, novelty_p, where, embeddings)

    def read(self) -> Iterator[NovelInSlide]:
        """Yield every slide that has objects.

        Raises:
            StoreError: objects or embeddings cannot be read.
        """
        reference, held_out = novelty_reference(self.head), self.head.uncertainty_arrays["distance"]
        for slide in read_slides(self.store, run=0, where=self.where, embeddings=self.embeddings):
            compared = np.flatnonzero(~(slide.without_pixels | slide.without_vector))
            distance = reference.distance(slide.vectors[compared])
            p_value = novelty_p_values(distance, held_out)
            is_novel = p_value <= self.novelty_p
            rows = compared[is_novel]
            nearest = reference.nearest(slide.vectors[rows])
            yield NovelInSlide(slide, len(compared), rows, distance[is_novel], p_value[is_novel], nearest)
