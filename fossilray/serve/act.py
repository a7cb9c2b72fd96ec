"""Acts of annotators as the pages send them and the journal keeps them: a label, or a withdrawal of one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from fossilray.labels.label import Box, Label, Scan
from fossilray.labels.occurrence import (
    KINDS_WITHOUT_TAXON,
    Kind,
    Occurrence,
    Situation,
    SpecimenRole,
    clean_text,
    parse_taxon_name,
)

MOST_TEXT = 200

Text = Annotated[str, Field(max_length=MOST_TEXT), AfterValidator(clean_text)]


class StatedOccurrence(BaseModel):
    """What an annotator states about an object; a name is given as written, with its qualifier."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Text = ""
    kind: Kind = "fossil"
    situation: Situation | None = None
    specimen: SpecimenRole | None = None
    unsure: bool = False
    remark: Text = ""

    @model_validator(mode="after")
    def _has_content(self) -> StatedOccurrence:
        if self.kind == "fossil" and not self.name:
            raise ValueError("a fossil needs a name; state its kind if it is none")
        if self.kind in KINDS_WITHOUT_TAXON and self.name:
            raise ValueError(f"{self.kind} has no name; leave {self.name!r} out, or state another kind")
        return self

    def occurrence(self) -> Occurrence:
        """Return the occurrence for a round of labels."""
        parsed = parse_taxon_name(self.name) if self.name else None
        return Occurrence(
            self.name,
            "" if parsed is None else parsed.taxon,
            None if parsed is None else parsed.qualifier,
            kind=self.kind,
            situation=self.situation,
            specimen=self.specimen,
            is_unsure=self.unsure,
            remark=self.remark,
        )

    @staticmethod
    def of(occurrence: Occurrence) -> StatedOccurrence:
        """Return the form in which the pages show an occurrence."""
        return StatedOccurrence.model_construct(
            name=occurrence.written,
            kind=occurrence.kind,
            situation=occurrence.situation,
            specimen=occurrence.specimen,
            unsure=occurrence.is_unsure,
            remark=occurrence.remark,
        )


class Act(BaseModel):
    """One act of an annotator. Sent twice with the same `id`, it counts once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[0-9a-f-]{16,40}$")]
    """A random id that the page gives it."""
    slide_id: Annotated[str, Field(max_length=1000)]
    object_id: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """None: an object that the detector missed, in `box`."""
    box: Box | None = None
    """Level-0 px: x_min, y_min, x_max, y_max; of a missed object only."""
    attempt: Annotated[str, Field(max_length=100)]
    """The attempt whose objects the page showed."""
    states: StatedOccurrence | None
    """None: the annotator's label of the object is withdrawn."""

    @model_validator(mode="after")
    def _is_complete(self) -> Act:
        if (self.object_id is None) != (self.box is not None):
            raise ValueError("give object_id, or the box of an object that the detector missed")
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError(f"the box {self.box} has no area")
        return self


class RecordedAct(BaseModel):
    """An act as the journal keeps it: a whole label, which needs no run to become part of a round."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    slide_id: str
    object_id: int | None
    attempt: str
    box: Box
    states: StatedOccurrence
    """What a withdrawal ends, if `withdrawn`."""
    withdrawn: bool
    scan: dict[str, str | int | None]
    who: str
    at: str
    """UTC, ISO 8601."""
    run: str
    """URL of the run."""
    run_digest: str
    chosen_by: str = ""
    """How the object was chosen to be labelled, as of a label."""

    @staticmethod
    def of(act: Act, label: Label, *, run: str) -> RecordedAct:
        """Return the record of an act and of the label that it makes."""
        return RecordedAct(
            id=act.id,
            slide_id=label.slide_id,
            object_id=label.object_id,
            attempt=label.attempt,
            box=label.box,
            states=StatedOccurrence.of(label.occurrence),
            withdrawn=label.is_withdrawn,
            scan=asdict(label.scan),
            who=label.who,
            at=label.at,
            run=run,
            run_digest=label.run_digest,
            chosen_by=label.chosen_by,
        )

    def label(self) -> Label:
        """Return the label for a round."""
        scan: Any = self.scan
        return Label(
            self.slide_id,
            self.object_id,
            self.attempt,
            self.box,
            self.who,
            self.states.occurrence(),
            Scan(**scan),
            self.at,
            self.run_digest,
            is_withdrawn=self.withdrawn,
            chosen_by=self.chosen_by,
        )
