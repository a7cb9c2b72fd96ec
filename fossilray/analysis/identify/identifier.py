"""The identifier: cuts the objects of an image, embeds and names them, and finds the specimens nearest to each."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.discovery.novel_objects import NOVELTY_P
from fossilray.analysis.identify.cutting import CutObjects, ObjectCutter
from fossilray.analysis.identify.heat_map import HeatMapper
from fossilray.analysis.identify.naming import (
    ObjectNaming,
    least_novelty_p,
    name_objects,
)
from fossilray.analysis.identify.photograph import Photograph
from fossilray.analysis.identify.result import (
    IdentifiedObject,
    ImageIdentification,
    NearSpecimen,
    NetworkUsed,
)
from fossilray.analysis.identify.specimens_of_run import NearestSpecimens
from fossilray.core.backbones import BackboneIdentity, require_comparable
from fossilray.core.config import CropsConfig, DetectorConfig, EmbedderConfig
from fossilray.core.config.choices import ImageView
from fossilray.core.errors import UsageError
from fossilray.core.text import list_some
from fossilray.core.types import Image
from fossilray.core.vectors import unit_vectors
from fossilray.models.backbones.load import embedder_digest, load_embedder, weights_setting_of
from fossilray.models.detectors.load import detector_digest
from fossilray.models.heads import head_digest, load_head
from fossilray.models.heads.compatibility import require_same_backbone
from fossilray.models.heads.head import BackboneReference
from fossilray.models.heads.uncertainty import COVERAGE, classes_in_every_set

NEAREST_SPECIMENS = 24
"""Labelled and unlabelled specimens that are given for each object."""


class Specimens(Protocol):
    """Specimens that objects are compared with."""

    @property
    def backbone(self) -> BackboneIdentity: ...

    @property
    def source(self) -> str:
        """The run, index or folder, for messages."""
        ...

    @property
    def scope(self) -> str:
        """A clause about what is compared, for notes."""
        ...

    def nearest(self, vectors: NDArray[np.float32], *, count: int) -> list[NearestSpecimens]:
        """Return the nearest specimens of unit vectors (q, d)."""
        ...


@dataclass(frozen=True, eq=False)
class Identified:
    """The result for an image, and the crops (n, S, S, 3) of its objects."""

    result: ImageIdentification
    crops: NDArray[np.uint8]


class Identifier:
    """Backbone, detector, head and specimens, loaded once and used for any number of images, one at a time."""

    def __init__(
        self,
        *,
        backbone: str = "bundled",
        head: Path | None = None,
        specimens: Sequence[Specimens] = (),
        crops: CropsConfig | None = None,
        coverage: float = COVERAGE,
        novelty_p: float = NOVELTY_P,
    ) -> None:
        """Load the networks.

        Args:
            backbone: embeds the crops: bundled, a file of weights, or timm:<name>.
            head: names the objects; None: they are compared only.
            specimens: compared with each object.
            crops: side and fit of the crops that the specimens have; None: the default of a run.
            coverage, novelty_p: as `name_objects`.

        Raises:
            UsageError: the head, or vectors of specimens, are of another backbone.
            WeightsError: weights cannot be loaded.
        """
        config = EmbedderConfig(weights=weights_setting_of(backbone))
        (digest,) = embedder_digest(config).values()
        self._backbone_name, ours = backbone, BackboneReference(name=backbone, sha256=digest)
        self._head = None if head is None else load_head(head)
        if self._head is not None:
            require_same_backbone(
                self._head.meta,
                ours,
                subject=f"the vectors of --backbone {backbone}",
                remedy="give the backbone that it was trained on, or train a head on this one",
            )
        for each in specimens:
            _require_comparable(ours, each)
        self._specimens = tuple(specimens)
        self._coverage, self._novelty_p = coverage, novelty_p
        embedder = load_embedder(config, device="cpu")
        assert embedder is not None, "the configuration names weights"
        self._embedder = embedder
        self._cutter = ObjectCutter(crops)
        ((_, detector),) = detector_digest(DetectorConfig()).items()
        self.detector = NetworkUsed(name="bundled", sha256=detector)
        self.backbone = NetworkUsed(name=embedder.name, sha256=digest)
        self.head = None if head is None else NetworkUsed(name=head.name, sha256=head_digest(head))
        self._heat: HeatMapper | None = None
        self._guard = threading.Lock()

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the head; none without one."""
        return () if self._head is None else self._head.classes

    @property
    def scopes(self) -> tuple[str, ...]:
        """Sentences about what is compared; specimens are read for them at the first time."""
        return tuple(each.scope for each in self._specimens)

    def identify(self, photograph: Photograph, *, view: ImageView = "auto") -> Identified:
        """Identify the objects of an image. view: as `ObjectCutter.cut`.

        Raises:
            TooManyObjects: the image shows noise.
            StoreError: specimens of a run are missing or damaged.
        """
        with self._guard:
            cut = self._cutter.cut(photograph, view=view)
            vectors = (
                self._embedder.embed(cut.crops)
                if len(cut.crops)
                else np.zeros((0, self._embedder.dimension), np.float16)
            )
            named = [ObjectNaming()] * len(vectors)
            if self._head is not None:
                named = name_objects(self._head, vectors, coverage=self._coverage, novelty_p=self._novelty_p)
            near = self._nearest(unit_vectors(vectors.astype(np.float32)))
        objects = tuple(
            _object(number, photograph, cut, naming, specimens)
            for number, (naming, specimens) in enumerate(zip(named, near, strict=True))
        )
        return Identified(
            ImageIdentification(
                name=photograph.name,
                width=photograph.width,
                height=photograph.height,
                um_per_px=photograph.um_per_px,
                um_per_px_from=photograph.um_per_px_from,
                view=cut.view,
                objects=objects,
                found=cut.found,
                notes=(*_notes_on(photograph, cut), *self._notes()),
                detector=self.detector,
                backbone=self.backbone,
                head=self.head,
                coverage=self._coverage,
            ),
            cut.crops,
        )

    def heat_map(self, crop: NDArray[np.uint8], taxon: str) -> Image:
        """Return the heat map of a class, drawn over a crop (S, S, 3).

        Raises:
            UsageError: there is no head, it lacks the class, or the network has no maps.
        """
        with self._guard:
            if self._heat is None:
                self._heat = HeatMapper(self._backbone_name, self._head)
            return self._heat.draw(crop, taxon)

    def _nearest(self, vectors: NDArray[np.float32]) -> list[NearestSpecimens]:
        by_source = [each.nearest(vectors, count=NEAREST_SPECIMENS) for each in self._specimens]
        return [
            NearestSpecimens(
                _merge([nearest[row].labelled for nearest in by_source]),
                _merge([nearest[row].unlabelled for nearest in by_source]),
            )
            for row in range(len(vectors))
        ]

    def _notes(self) -> list[str]:
        notes = []
        if self._head is None:
            notes.append(
                "No head is given, so that nothing is named; `fossilray classify train` makes one of labels."
            )
        else:
            notes.append(
                "Shares and sets hold for crops like those that the head was trained on; a photograph taken with "
                "another microscope may differ from all of them."
            )
            in_all = classes_in_every_set(self._head, coverage=self._coverage)
            if in_all:
                notes.append(
                    f"In every set, because too few labelled crops of them were held out: {list_some(in_all)}."
                )
            least = least_novelty_p(self._head)
            if least is not None and least > self._novelty_p:
                notes.append(
                    f"The head was calibrated on few crops: its p of novelty is never below {least:.2g}, so that no "
                    f"object counts as like nothing labelled at {self._novelty_p:g}."
                )
        if not self._specimens:
            notes.append("Nothing is compared: no run, index or labels are given.")
        return [*notes, *(f"{scope[0].upper()}{scope[1:]}." for scope in self.scopes)]


def comparable(specimens: Sequence[Specimens], backbone: str) -> tuple[list[Specimens], list[str]]:
    """Return the specimens whose vectors are of a backbone, and of each of the others why it is left out."""
    (digest,) = embedder_digest(EmbedderConfig(weights=weights_setting_of(backbone))).values()
    kept: list[Specimens] = []
    reasons = []
    for each in specimens:
        try:
            _require_comparable(BackboneReference(name=backbone, sha256=digest), each)
        except UsageError as error:
            reasons.append(str(error))
        else:
            kept.append(each)
    return kept, reasons


def _require_comparable(ours: BackboneReference, specimens: Specimens) -> None:
    require_comparable(
        ours,
        specimens.backbone,
        of_ours=f"--backbone {ours.name} is",
        of_theirs=f"the vectors of {specimens.source}",
        remedy="give --backbone the file that made them, or --embeddings of this backbone (`fossilray embed`)",
    )


def _object(
    number: int, photograph: Photograph, cut: CutObjects, naming: ObjectNaming, near: NearestSpecimens
) -> IdentifiedObject:
    x_min, y_min, x_max, y_max = cut.boxes[number].tolist()
    mpp, score = photograph.um_per_px, float(cut.score[number])
    return IdentifiedObject(
        number=number,
        box=(x_min, y_min, x_max, y_max),
        width_um=None if mpp is None else round((x_max - x_min) * mpp, 1),
        height_um=None if mpp is None else round((y_max - y_min) * mpp, 1),
        detector_score=None if np.isnan(score) else round(score, 3),
        taxa=naming.taxa,
        set_size=naming.set_size,
        novelty_p=naming.novelty_p,
        is_novel=naming.is_novel,
        taxon=naming.taxon,
        rank=naming.rank,
        sentence=naming.sentence,
        nearest_labelled=near.labelled,
        nearest_unlabelled=near.unlabelled,
    )


def _notes_on(photograph: Photograph, cut: CutObjects) -> list[str]:
    notes = []
    if photograph.um_per_px is None:
        why = f" ({photograph.unused})" if photograph.unused else ""
        notes.append(f"The um per px is unknown{why}, so that sizes are, too.")
    if cut.guessed_um_per_px is not None and len(cut.boxes):
        notes.append(
            f"The detector looked at the field at {cut.guessed_um_per_px:.2g} um per px, a guess at which its objects "
            "have the usual size."
        )
    if cut.found > len(cut.boxes):
        notes.append(
            f"{cut.found:,} objects were found; the {len(cut.boxes)} with the highest scores are identified."
        )
    if not cut.found:
        notes.append("The detector found no object; take the whole image as one crop if it shows one fossil.")
    return notes


def _merge(lists: Sequence[Sequence[NearSpecimen]]) -> tuple[NearSpecimen, ...]:
    every = [specimen for of_source in lists for specimen in of_source]
    return tuple(sorted(every, key=lambda specimen: -specimen.similarity)[:NEAREST_SPECIMENS])
