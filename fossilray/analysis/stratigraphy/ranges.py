"""Ranges of taxa in a well: last and first occurrences, and which of them the types of the samples support.

In ditch cuttings fossils fall from the beds above into samples below (caving). The highest sample that holds a taxon is
therefore its last occurrence in cuttings, too, but the lowest one may be far below its first occurrence. A core or a
side-wall core holds what its own depth holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.stratigraphy.samples import WellSample
from fossilray.core.sample_terms import may_cave


@dataclass(frozen=True)
class TaxonRange:
    """Range of a taxon; rows are samples from the top down. None: the taxon is in no such sample."""

    last: int | None
    """Row of the last occurrence: the topmost sample in which the taxon is present."""
    first: int | None
    """Row of the lowest sample in which it is present."""
    firm_first: int | None
    """Row of the lowest such sample into which nothing caves."""

    @property
    def is_first_doubtful(self) -> bool:
        """Whether the lowest sample is of cuttings, so that the first occurrence may be higher."""
        return self.first != self.firm_first

    @property
    def reliable_first(self) -> int | None:
        """Row of the first occurrence by which taxa are ordered: the firm one, or else the lowest."""
        return self.first if self.firm_first is None else self.firm_first


def find_ranges(present: NDArray[np.bool_], samples: Sequence[WellSample]) -> tuple[TaxonRange, ...]:
    """Return the range of each taxon. present: (samples, taxa) whether a taxon is certainly in a sample."""
    firm = np.array([not may_cave(sample.sample_type) for sample in samples], bool)
    ranges = []
    for column in present.T:
        rows, firm_rows = np.flatnonzero(column), np.flatnonzero(column & firm)
        ranges.append(
            TaxonRange(
                last=int(rows[0]) if len(rows) else None,
                first=int(rows[-1]) if len(rows) else None,
                firm_first=int(firm_rows[-1]) if len(firm_rows) else None,
            )
        )
    return tuple(ranges)
