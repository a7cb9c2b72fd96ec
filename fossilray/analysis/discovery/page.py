"""The page about objects that are like no label: a contact sheet for each cluster, and where it occurs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.discovery.candidates import Candidate, Discovery, PlaceCount
from fossilray.render.crops import jpeg_uri
from fossilray.render.html import template_environment
from fossilray.training.curation.sheets import Sheets

_WELLS, _DEPTHS = 6, 40
_QUALITY = 78


@dataclass(frozen=True)
class ShownWell:
    """Where a cluster occurs in one well."""

    well: str
    counts: tuple[PlaceCount, ...]
    left_out: int
    """Depths that are not shown."""
    total: int


@dataclass(frozen=True)
class ShownCandidate:
    """A cluster with its sheet."""

    facts: Candidate
    uri: str
    width_px: int
    height_px: int
    wells: tuple[ShownWell, ...]
    wells_left_out: int


def render_discovery(record: Discovery, sheets: Sheets, number: NDArray[np.int32]) -> str:
    """The page as HTML. number: (clusters,) what each sheet's cluster is called in the record."""
    environment = template_environment()
    by_number = {int(name): sheets.sheets[c] for c, name in enumerate(number.tolist()) if c in sheets.sheets}
    shown = []
    for one in record.candidates:
        sheet = by_number[one.cluster]
        shown.append(
            ShownCandidate(
                one,
                jpeg_uri(sheet, quality=_QUALITY),
                sheet.shape[1],
                sheet.shape[0],
                tuple(_well(one, well) for well in one.wells[:_WELLS]),
                max(len(one.wells) - _WELLS, 0),
            )
        )
    return environment.get_template("discovery.html.j2").render(
        record=record, candidates=shown, unreadable=sheets.unreadable
    )


def _well(candidate: Candidate, well: str) -> ShownWell:
    counts = tuple(one for one in candidate.counts if one.well == well)
    return ShownWell(well, counts[:_DEPTHS], max(len(counts) - _DEPTHS, 0), sum(one.count for one in counts))
