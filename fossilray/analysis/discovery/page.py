"""Page of novel objects: a contact sheet of each cluster, with its counts by well and depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.discovery.candidates import Candidate, DepthCount, Discovery
from fossilray.render.crops import jpeg_uri
from fossilray.render.html import template_environment
from fossilray.training.curation.sheets import ClusterSheets

_MAX_WELLS, _MAX_DEPTHS = 6, 40
_QUALITY = 78


@dataclass(frozen=True)
class CandidateWell:
    """Counts of a cluster in one well."""

    well: str
    counts: tuple[DepthCount, ...]
    left_out: int
    """Number of depths that are not shown."""
    total: int


@dataclass(frozen=True)
class CandidateSheet:
    """A cluster with its contact sheet."""

    candidate: Candidate
    uri: str
    width_px: int
    height_px: int
    wells: tuple[CandidateWell, ...]
    wells_left_out: int


def render_discovery(record: Discovery, sheets: ClusterSheets, number: NDArray[np.int32]) -> str:
    """Render the page as HTML. `number`: (clusters,) the number in the record of each sheet's cluster."""
    by_number = {int(name): sheets.sheets[c] for c, name in enumerate(number.tolist()) if c in sheets.sheets}
    shown = []
    for candidate in record.candidates:
        sheet = by_number[candidate.cluster]
        shown.append(
            CandidateSheet(
                candidate,
                jpeg_uri(sheet, quality=_QUALITY),
                sheet.shape[1],
                sheet.shape[0],
                tuple(_well(candidate, well) for well in candidate.wells[:_MAX_WELLS]),
                max(len(candidate.wells) - _MAX_WELLS, 0),
            )
        )
    return (
        template_environment()
        .get_template("discovery.html.j2")
        .render(record=record, candidates=shown, unreadable=sheets.unreadable)
    )


def _well(candidate: Candidate, well: str) -> CandidateWell:
    counts = tuple(count for count in candidate.counts if count.well == well)
    left_out = max(len(counts) - _MAX_DEPTHS, 0)
    return CandidateWell(well, counts[:_MAX_DEPTHS], left_out, sum(count.count for count in counts))
