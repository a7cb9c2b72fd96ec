"""Concentrations of taxa from marker grains that were added to a sample (Stockmarr 1971).

With X grains of a taxon and M marker grains counted, and N markers added to an amount W of the sample, the
concentration is X / M * N / W. The amount of residue that was mounted and the share of the slide that was counted
cancel. The interval combines, as Maher (1981) does, the error of the ratio X / M and that of N. The ratio given the
counts is p / (1 - p) for the share p of X in X + M, with Wilson's (1927) interval; with a confusion matrix the interval
is at least as wide as the percentiles of the bootstrap over predictions and validation crops. The error of N, which is
the standard deviation of one tablet over the root of their number, is added in quadrature on the scale of logarithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.stratigraphy.confusion import Confusion
from fossilray.analysis.stratigraphy.intervals import LEVEL, estimate_ratios
from fossilray.analysis.stratigraphy.samples import WellSample, WellSamples


@dataclass(frozen=True)
class Concentrations:
    """Grains per gram or per millilitre (samples, taxa + 1); the last column is all taxa together. nan: unknown."""

    values: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    markers: NDArray[np.float64]
    """(samples,) estimated marker grains among the objects."""
    units: tuple[str, ...]
    """`g` or `ml` of each sample; empty for a sample without a spike."""
    missing: tuple[str, ...]
    """Sentences on samples with a spike and without concentrations."""

    def of_taxa(self, order: Sequence[int]) -> Concentrations:
        """Return the concentrations of these taxa in this order, and of all taxa together."""
        columns = [*order, self.values.shape[1] - 1]
        return replace(
            self, values=self.values[:, columns], low=self.low[:, columns], high=self.high[:, columns]
        )

    @property
    def unit(self) -> str:
        """The unit of the chart: that of most samples."""
        return max(sorted({*self.units} - {""}), key=self.units.count, default="g")


def find_markers(well: WellSamples, labels: Sequence[str]) -> tuple[str, ...]:
    """Return the labels under which marker grains of the well's samples are counted, which are no taxa."""
    names = {sample.spike.marker.casefold() for sample in well.samples if sample.spike}
    return tuple(label for label in labels if label.casefold() in names)


def estimate_concentrations(
    samples: Sequence[WellSample],
    counts: NDArray[np.int64],
    labels: Sequence[str],
    taxon_of_label: NDArray[np.int64],
    taxa: int,
    *,
    confusion: Confusion | None,
    rng: np.random.Generator,
    determined: NDArray[np.int64] | None = None,
    level: float = LEVEL,
) -> Concentrations | None:
    """Estimate the concentrations of taxa in samples with a spike; None if no sample has one.

    Args:
        counts: (samples, labels) objects predicted as each label.
        labels: names of the labels, in which the marker is one; with a confusion matrix its classes.
        taxon_of_label: the taxon of each label; -1: not counted.
        determined: (samples, taxa + 1) objects that experts determined; the last column is grains of the marker.
    """
    if not any(sample.spike or sample.has_mixed_spikes for sample in samples):
        return None
    shape = (len(samples), taxa + 1)
    values, low, high = (np.full(shape, np.nan) for _ in range(3))
    markers = np.full(len(samples), np.nan)
    missing = [
        f"the slides of {sample.interval} state different spikes or amounts, so the sample has no concentration"
        for sample in samples
        if sample.has_mixed_spikes
    ]
    for marker in dict.fromkeys(sample.spike.marker for sample in samples if sample.spike):
        rows = [row for row, sample in enumerate(samples) if sample.spike and sample.spike.marker == marker]
        named = [label for label in labels if label.casefold() == marker.casefold()]
        of_experts = None if determined is None else determined[rows]
        if not named and (of_experts is None or not of_experts[:, taxa].any()):
            missing.append(
                f"the marker {marker} is no label of the predictions, so no concentration follows from it"
                if of_experts is None
                else f"the marker {marker} is neither predicted nor labelled, so no concentration follows from it"
            )
            continue
        with_marker = np.array(taxon_of_label, np.int64)
        for label in named:
            with_marker[list(labels).index(label)] = taxa
        ratios = estimate_ratios(
            counts[rows],
            with_marker,
            taxa,
            confusion=confusion,
            determined=of_experts,
            level=level,
            rng=rng,
        )
        for number, row in enumerate(rows):
            sample, spike = samples[row], samples[row].spike
            assert spike is not None
            markers[row] = ratios.markers[number]
            amount = sample.amount
            if not markers[row] >= 0.5 or amount is None:
                missing.append(
                    f"no marker grain was counted at {sample.interval}, so it has no concentration"
                )
                continue
            scale = spike.grains / amount[0]
            spread = _z(level) * spike.relative_sd
            values[row] = scale * ratios.values[number]
            low[row] = scale * _widen(ratios.values[number], ratios.low[number], spread, upwards=False)
            high[row] = scale * _widen(ratios.values[number], ratios.high[number], spread, upwards=True)
    units = tuple("" if sample.amount is None or not sample.spike else sample.amount[1] for sample in samples)
    return Concentrations(values, low, high, markers, units, tuple(missing))


def _widen(
    values: NDArray[np.float64], bounds: NDArray[np.float64], spread: float, *, upwards: bool
) -> NDArray[np.float64]:
    """Add a relative error to a bound, in quadrature on the scale of logarithms; a value of 0 has the bound alone."""
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.abs(np.log(bounds / values))
    has_value = (values > 0) & np.isfinite(distance)
    distance = np.where(has_value, np.hypot(np.where(has_value, distance, 0.0), spread), 0.0)
    sign = 1.0 if upwards else -1.0
    return np.where(
        has_value, values * np.exp(sign * distance), bounds * (np.exp(spread) if upwards else 1.0)
    )


def _z(level: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf((1 + level) / 2))
