"""Labelled marks, a head that names them, and a run that holds them, embedded by the bundled backbone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from support.drawn_photographs import KINDS, write_marks
from support.indexed_runs import CROP_PX, a_vector_run

from fossilray.core.images import resize_to
from fossilray.labels.embed import EmbeddedCrops, embed_labelled
from fossilray.labels.load import LabelledSet, load_labels
from fossilray.models.heads import save_head
from fossilray.store import RunStore
from fossilray.training.heads import train_and_cross_validate


@dataclass(frozen=True)
class Marks:
    """A folder of labelled marks, their vectors, and a head trained on them."""

    labels: Path
    head: Path
    labelled: LabelledSet
    embedded: EmbeddedCrops

    def write_run(self, folder: Path) -> RunStore:
        """A run of two slides with the marks in their order; the last one of each slide has no pixels."""
        vectors, digest = self.embedded.vectors, self.embedded.backbone.sha256
        crops = np.stack([resize_to(crop, size_px=CROP_PX) for crop in self.labelled.crops.pixels])
        return a_vector_run(
            folder,
            {"a": vectors[:40], "b": vectors[40:]},
            wells={"b": "W-2"},
            sha256=digest,
            pixels={"a": crops[:40], "b": crops[40:]},
        )


def make_marks(folder: Path) -> Marks:
    """26 marks of each of three kinds, embedded, and a head of nearest neighbours."""
    labels = write_marks(folder / "labels", KINDS, each=26)
    labelled = load_labels(labels)
    embedded = embed_labelled(labelled, "bundled")
    head = folder / "marks.safetensors"
    save_head(head, train_and_cross_validate(labelled, embedded, kind="knn", k=10)[0])
    return Marks(labels, head, labelled, embedded)
