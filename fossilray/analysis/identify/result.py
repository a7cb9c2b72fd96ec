"""Results of an identification, as JSON of `fossilray identify --json` and of the API has them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from fossilray.core.config.choices import ImageView, ResolutionSource, TaxonRank


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True)


class TaxonShare(_Result):
    """A class of the head with its calibrated probability."""

    name: str
    share: float
    in_set: bool = Field(description="Whether it is in the prediction set, so that it cannot be excluded.")


class NearSpecimen(_Result):
    """A specimen that looks like an object, by the cosine of their vectors."""

    similarity: float
    name: str | None = Field(description="Of the labels; names that contradict each other are all given.")
    who: str | None = Field(description="Annotators who gave the name.")
    predicted: str | None = Field(description="By the newest predictions of the run.")
    run: str | None
    slide_id: str | None
    object_id: int | None
    attempt: str | None
    well: str | None
    depth_m: float | None
    width_um: float | None
    height_um: float | None
    file: str | None = Field(description="Image of a labelled crop that is of no run.")


class IdentifiedObject(_Result):
    """One object of an image."""

    number: int
    box: tuple[int, int, int, int] = Field(description="x_min, y_min, x_max, y_max in px of the image.")
    width_um: float | None
    height_um: float | None
    detector_score: float | None
    taxa: tuple[TaxonShare, ...] = Field(
        description="The prediction set, and the most probable classes; the most probable first. Empty without a head."
    )
    set_size: int | None = Field(description="Classes in the prediction set; None without a calibrated head.")
    novelty_p: float | None = Field(description="Small where the object is like nothing labelled.")
    is_novel: bool
    taxon: str | None = Field(description="The name at the finest rank at which the head is reliable.")
    rank: TaxonRank | None
    sentence: str = Field(description="The result in words.")
    nearest_labelled: tuple[NearSpecimen, ...]
    nearest_unlabelled: tuple[NearSpecimen, ...]


class NetworkUsed(_Result):
    """Weights that a result depends on."""

    name: str
    sha256: str


class ImageIdentification(_Result):
    """All objects of an image."""

    name: str
    width: int
    height: int
    um_per_px: float | None
    um_per_px_from: ResolutionSource | None
    view: ImageView = Field(description="`crop`: the image is one object; `field`: the detector cut it.")
    objects: tuple[IdentifiedObject, ...]
    found: int = Field(description="Objects that the detector found; those beyond the limit are left out.")
    notes: tuple[str, ...]
    detector: NetworkUsed
    backbone: NetworkUsed
    head: NetworkUsed | None
    coverage: float
