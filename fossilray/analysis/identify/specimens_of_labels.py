"""Nearest specimens among labelled crops that are of no run: a folder of <class>/<image>, or a table of files."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.identify.result import NearSpecimen
from fossilray.analysis.identify.specimens_of_run import NearestSpecimens
from fossilray.core.backbones import BackboneIdentity
from fossilray.core.text import counted
from fossilray.core.vectors import unit_vectors
from fossilray.labels.embed import embed_labelled
from fossilray.labels.load import LabelledSet


class LabelledSpecimens:
    """Labelled crops, embedded when they are opened."""

    def __init__(self, labelled: LabelledSet, backbone: str, *, source: str) -> None:
        """Embed the crops by the backbone of this name. source: where they lie, for notes.

        Raises:
            WeightsError: the weights of the backbone cannot be loaded.
        """
        embedded = embed_labelled(labelled, backbone)
        self.backbone: BackboneIdentity = embedded.backbone
        self._vectors = unit_vectors(embedded.vectors.astype(np.float32))
        self._labelled, self.source = labelled, source

    @property
    def scope(self) -> str:
        """A clause about what is compared, for notes."""
        left_out = len(self._labelled.findings.unreadable)
        rest = f"; {counted(left_out, 'other')} could not be read" if left_out else ""
        return f"compared with the {len(self._labelled):,} labelled crops of {self.source}{rest}"

    def nearest(self, vectors: NDArray[np.float32], *, count: int) -> list[NearestSpecimens]:
        """Return the nearest specimens of unit vectors (q, d); none is without a label."""
        cosine = np.nan_to_num(vectors @ self._vectors.T, copy=False, nan=-1.0)
        rows = np.argsort(-cosine, axis=1, kind="stable")[:, :count]
        return [
            NearestSpecimens(tuple(self._specimen(row, float(values[row])) for row in of_object.tolist()), ())
            for values, of_object in zip(cosine, rows, strict=True)
        ]

    def _specimen(self, row: int, similarity: float) -> NearSpecimen:
        crops, wells = self._labelled.crops, self._labelled.wells
        properties: Mapping[str, str | None] = {
            "file": self._labelled.names[row],
            "well": None if wells is None else wells[row],
            "name": crops.classes[int(crops.label[row])],
        }
        return NearSpecimen(
            similarity=round(min(similarity, 1.0), 4),
            who=None,
            predicted=None,
            run=None,
            slide_id=None,
            object_id=None,
            attempt=None,
            depth_m=None,
            width_um=None,
            height_um=None,
            **properties,
        )
