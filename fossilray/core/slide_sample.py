"""The sample that a slide was prepared from, as people correct it, and its columns."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from fossilray.core.sample_terms import mid_depth


@dataclass(frozen=True)
class Spike:
    """Marker grains that were added to a sample as tablets."""

    marker: str
    """Label under which the marker grains are counted."""
    tablets: float
    grains_per_tablet: float
    grains_per_tablet_sd: float | None
    """Standard deviation of one tablet, as the manufacturer states it for the batch."""

    @property
    def grains(self) -> float:
        """Marker grains that were added."""
        return self.tablets * self.grains_per_tablet

    @property
    def relative_sd(self) -> float:
        """Relative standard deviation of `grains`: that of one tablet over the root of their number."""
        return (self.grains_per_tablet_sd or 0.0) / self.grains_per_tablet / math.sqrt(self.tablets)


@dataclass(frozen=True)
class SlideSample:
    """A slide as a preparation of a sample, and the sample; fields are None where the value is unknown."""

    slide_id: str
    well: str | None = None
    """Name of the site."""
    site_kind: str | None = None
    """One of SITE_KINDS."""
    sample: str | None = None
    """Name of the sample, unique in its site; slides of one sample have equal depths."""
    top_depth_m: float | None = None
    base_depth_m: float | None = None
    """Equal to top_depth_m for a sample of one depth."""
    depth_unit: str | None = None
    """`m` or `ft`: in what the depths were given."""
    tvd_m: float | None = None
    """True vertical depth of the middle of the interval."""
    sample_type: str | None = None
    """One of SAMPLE_TYPES, or another."""
    preparation: str | None = None
    """How the slide was prepared: kerogen, oxidised."""
    sieve_um: float | None = None
    """Mesh of the sieve whose residue is on the slide."""
    stain: str | None = None
    weight_g: float | None = None
    """Dry weight of what was processed, with its spike."""
    volume_ml: float | None = None
    marker: str | None = None
    """Label under which the marker grains are counted."""
    marker_tablets: float | None = None
    grains_per_tablet: float | None = None
    grains_per_tablet_sd: float | None = None
    remark: str | None = None

    @property
    def measured_depth_m(self) -> float | None:
        """The middle of the interval."""
        return mid_depth(self.top_depth_m, self.base_depth_m)

    @property
    def spike(self) -> Spike | None:
        """The marker grains; None where one of marker, tablets and grains per tablet is unknown."""
        if self.marker is None or self.marker_tablets is None or self.grains_per_tablet is None:
            return None
        return Spike(self.marker, self.marker_tablets, self.grains_per_tablet, self.grains_per_tablet_sd)


SAMPLE_COLUMNS = tuple(field.name for field in fields(SlideSample) if field.name != "slide_id")
"""Columns that rounds of samples correct."""
NUMBER_COLUMNS = (
    "top_depth_m",
    "base_depth_m",
    "tvd_m",
    "sieve_um",
    "weight_g",
    "volume_ml",
    "marker_tablets",
    "grains_per_tablet",
    "grains_per_tablet_sd",
)
"""Columns of SAMPLE_COLUMNS that hold numbers; the others hold text."""
