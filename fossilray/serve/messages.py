"""Requests and responses of the API as pydantic models, which are its OpenAPI description, too."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from fossilray.analysis.identify.result import ImageIdentification, NetworkUsed
from fossilray.labels.label import Box, Label
from fossilray.serve.act import Act, StatedOccurrence


class SessionMessage(BaseModel):
    """Who looks, and what is served."""

    name: str
    may_label: bool
    runs: list[str]
    version: str


class TaxonMessage(BaseModel):
    """A taxon or kind with the number of objects."""

    name: str
    predicted: int
    labelled: int
    doubtful: int
    """Labelled objects that are unsure, or on whose name annotators differ."""


class WellMessage(BaseModel):
    """A well."""

    well: str
    slides: int
    objects: int
    top_m: float | None
    base_m: float | None


class AuditMessage(BaseModel):
    """An audit that is to be labelled."""

    id: str
    objects: int
    labelled: int


class RunMessage(BaseModel):
    """A run at a glance."""

    key: str
    url: str
    slides: int
    objects: int
    scanned_mm2: float
    failed: int
    wells: list[WellMessage]
    predictions: str | None
    labels: str | None
    """Folder of the label set; None: nothing is labelled."""
    labelled: int
    conflicts: int
    held_objects: int | None
    """Objects that the grid chooses from, where it is not all; None: all."""
    held_slides: int | None
    audit: AuditMessage | None


class SlideMessage(BaseModel):
    """A slide in a list."""

    slide_id: str
    attempt: str
    well: str | None
    depth_m: float | None
    objects: int
    labelled: int
    doubts: list[str]


class SlideViewMessage(SlideMessage):
    """What a viewer needs of a slide. Boxes are in level-0 px; the tiles show the scanned area from its corner."""

    path: str
    mpp: float
    bounds: Box
    tile_px: int
    top_level: int
    previous: str | None
    next: str | None


class LabelMessage(BaseModel):
    """The label of one annotator."""

    states: StatedOccurrence
    who: str
    at: str

    @staticmethod
    def of(label: Label) -> LabelMessage:
        """Return the message of a label."""
        return LabelMessage(states=StatedOccurrence.of(label.occurrence), who=label.who, at=label.at)


class MissedMessage(BaseModel):
    """An object that the detector missed, as an annotator drew it."""

    box: Box
    name: str
    who: str


class SlideObjectsMessage(BaseModel):
    """The objects of a slide as columns of equal length."""

    object_id: list[int]
    x_min: list[int]
    y_min: list[int]
    x_max: list[int]
    y_max: list[int]
    score: list[float]
    taxon: list[int]
    """Position in `taxa`; -1 without a prediction."""
    confidence: list[float | None]
    taxa: list[str]
    labels: dict[int, LabelMessage]
    """The newest label by object_id."""
    missed: list[MissedMessage]


class CropMessage(BaseModel):
    """An object on a grid."""

    slide_id: str
    object_id: int
    attempt: str
    box: Box
    width_um: float
    height_um: float
    taxon: str | None
    confidence: float | None
    label: LabelMessage | None
    """The newest."""
    conflict: bool


class GridMessage(BaseModel):
    """A page of a grid."""

    total: int
    """Objects that meet the conditions."""
    crops: list[CropMessage]


class ObjectMessage(BaseModel):
    """All that is known about an object."""

    columns: dict[str, str | int | float | bool | list[float] | None]
    well: str | None
    depth_m: float | None
    labels: list[LabelMessage]


class ChartSampleMessage(BaseModel):
    """A sample of a well's chart."""

    label: str
    slides: list[str]
    top_m: float
    base_m: float
    sample_type: str | None
    objects: int
    """Objects of all taxa of the chart."""
    labelled: int
    is_small: bool
    """Whether it has too few objects for zones."""
    lost_share: float
    """Share of the sample that could not be read."""


class ChartTaxonMessage(BaseModel):
    """A taxon of a well's chart."""

    name: str
    group: str
    classes: list[str]
    """Names of labels and predictions that are counted as the taxon."""
    last: int | None
    """Row of the topmost sample in which it is present; None: it is present for sure nowhere."""
    first: int | None
    """Row of the lowest such sample."""


class WellChartMessage(BaseModel):
    """The range chart of a well. Tables have a row for each sample from the top down and a column for each taxon."""

    well: str
    samples: list[ChartSampleMessage]
    has_depths: bool
    """Otherwise samples are slides in the order of their names."""
    taxa: list[ChartTaxonMessage]
    shares: list[list[float]]
    low: list[list[float]]
    """Lower ends of the 95 % intervals of the shares."""
    high: list[list[float]]
    counts: list[list[float]]
    """Estimated objects."""
    labelled: list[list[int]]
    predicted: list[list[int]]
    """Objects without a label that are predicted as the taxon, not corrected."""
    is_present: list[list[bool]]
    """Whether the taxon is present for sure."""
    borders_m: list[float]
    """Depths of zone borders."""
    findings: list[str]
    """What the chart rests on, in sentences."""


class ColumnMessage(BaseModel):
    """A column of a query's result."""

    name: str
    type: str
    """Its Arrow type."""


class QueryMessage(BaseModel):
    """The first rows of a query's result."""

    columns: list[ColumnMessage]
    rows: list[list[str | int | float | bool | None]]
    """Values in the order of the columns; dates, lists and other types as text."""
    is_whole: bool
    """Whether there are no further rows."""
    seconds: float


class ActsMessage(BaseModel):
    """Acts of an annotator, in their order."""

    acts: Annotated[list[Act], Field(max_length=1000)]


class OutcomeMessage(BaseModel):
    """Ids of the acts that are safe, and the reason for each that is refused."""

    accepted: list[str]
    refused: dict[str, str]


class IdentifierMessage(BaseModel):
    """What identifies images."""

    head: NetworkUsed | None
    classes: list[str]
    backbone: NetworkUsed
    detector: NetworkUsed
    scopes: list[str]
    """What is compared, in clauses."""
    left_out: list[str]
    """Runs that are not compared, with the reason."""


class IdentificationMessage(BaseModel):
    """An identified image, its pictures at /api/identify/ID."""

    id: str
    result: ImageIdentification
    runs: dict[str, str]
    """Keys of the served runs by URL, for links to their slides."""
