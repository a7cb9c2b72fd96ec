"""Palynofacies, marine share and reworking of samples, from kinds, groups of taxa and situations of labels.

Palynofacies is the share of amorphous organic matter, phytoclasts (wood, cuticle) and palynomorphs in the organic
matter of a sample (Tyson 1995, Sedimentary Organic Matter, chapter 25), here by number of objects. The marine share is
that of marine among marine and terrestrial palynomorphs; which taxa are marine is stated by the user and never guessed.
Shares and intervals are those of `estimate_shares`: labels count as labelled, predictions with their classification
error. Reworking is known from labels alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.stratigraphy.confusion import Confusion
from fossilray.analysis.stratigraphy.determined import UNCERTAIN, UNNAMED
from fossilray.analysis.stratigraphy.intervals import LEVEL, ShareEstimate, estimate_shares, wilson
from fossilray.analysis.stratigraphy.samples import WellSamples, sum_determined
from fossilray.analysis.stratigraphy.taxon_grouping import TaxonGrouping
from fossilray.core.errors import UsageError
from fossilray.core.text import list_some
from fossilray.labels.occurrence import OBJECT_KINDS
from fossilray.labels.taxonomy import taxon_key

PARTS = ("amorphous matter", "phytoclasts", "palynomorphs")
_PART_OF_KIND = {"amorphous matter": 0, "wood": 1, "cuticle": 1}
_KINDS = {taxon_key(kind) for kind in OBJECT_KINDS}
_REWORKED = "reworked"
_PALYNOMORPHS_APART = (_REWORKED, UNCERTAIN, UNNAMED)
"""Labelled objects that no taxon of the assemblage counts, and that are palynomorphs."""


@dataclass(frozen=True)
class Reworking:
    """Labelled palynomorphs of each sample, and those of them that are reworked."""

    labelled: NDArray[np.int64]
    reworked: NDArray[np.int64]
    shares: NDArray[np.float64]
    """(samples,) nan in a sample without labels."""
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class Palynofacies:
    """Compositions of the samples of a well; a part is None where it is not known, and `missing` states why."""

    facies: ShareEstimate | None
    """(samples, 3) in the order of PARTS."""
    marine: ShareEstimate | None
    """(samples, 2) marine and terrestrial."""
    neither: tuple[str, ...]
    """Taxa that are stated to be neither marine nor terrestrial, and are not counted in `marine`."""
    reworking: Reworking | None
    missing: tuple[str, ...]

    @property
    def is_known(self) -> bool:
        """Whether there is anything to show."""
        return self.facies is not None or self.marine is not None or self.reworking is not None


def estimate_palynofacies(
    well: WellSamples,
    names: Sequence[str],
    grouping: TaxonGrouping,
    *,
    confusion: Confusion | None,
    sides: tuple[Sequence[str], Sequence[str]] = ((), ()),
    level: float = LEVEL,
    seed: int = 0,
) -> Palynofacies:
    """Estimate the palynofacies of a well's samples.

    Args:
        names: classes of the head, or of the confusion matrix, then further names of labels.
        grouping: the taxa of these names.
        sides: taxa or groups that are marine, and such that are terrestrial; both empty: no marine share.

    Raises:
        UsageError: a marine or terrestrial name is no taxon or group, is both, or one side is empty.
    """
    classes = len(well.labels if confusion is None else confusion.classes)
    missing: list[str] = []

    def shares(part_of_name: Sequence[int], parts: int, more: NDArray[np.int64]) -> ShareEstimate:
        return estimate_shares(
            well.label_counts,
            np.array(part_of_name[:classes], np.int64),
            parts,
            confusion=confusion,
            determined=sum_determined(well, names, part_of_name, parts) + more,
            level=level,
            rng=np.random.default_rng(seed),
        )

    facies = None
    apart = {name for sample in well.samples for name in sample.apart}
    if apart & _PART_OF_KIND.keys() or any(taxon_key(name) in _PART_OF_KIND for name in names):
        facies = shares(_parts(names, grouping), len(PARTS), _count_apart(well))
    else:
        missing.append(
            "no palynofacies: no object is labelled or predicted as amorphous matter, wood or cuticle"
        )
    marine: ShareEstimate | None = None
    neither: tuple[str, ...] = ()
    if any(sides):
        side_of_name, neither = _sides(names, grouping, *sides)
        marine = shares(side_of_name, 2, np.zeros((len(well.samples), 2), np.int64))
    return Palynofacies(facies, marine, neither, _reworking(well, names, grouping, level), tuple(missing))


def _parts(names: Sequence[str], grouping: TaxonGrouping) -> list[int]:
    """Return the part of each name; -1 for minerals, markers and what else is no organic particle or is left out."""
    return [
        _PART_OF_KIND.get(taxon_key(name), -1 if taxon_key(name) in _KINDS or taxon < 0 else 2)
        for name, taxon in zip(names, grouping.taxon_of_label, strict=True)
    ]


def _sides(
    names: Sequence[str], grouping: TaxonGrouping, marine: Sequence[str], terrestrial: Sequence[str]
) -> tuple[list[int], tuple[str, ...]]:
    if not (marine and terrestrial):
        raise UsageError(
            "a marine share needs both sides: give --marine and --terrestrial, each with taxa or groups"
        )
    keys = [{taxon_key(name) for name in side} for side in (marine, terrestrial)]
    if both := keys[0] & keys[1]:
        raise UsageError(
            f"{list_some(sorted(both))} cannot be both marine and terrestrial; leave it out of one"
        )
    known = {taxon_key(name) for name in (*names, *grouping.taxa, *grouping.groups)} - {""}
    if unknown := [name for name in (*marine, *terrestrial) if taxon_key(name) not in known]:
        raise UsageError(
            f"{list_some(unknown)} is no taxon or group of the chart; the groups are "
            f"{list_some(sorted({*grouping.groups} - {''})) or 'none (give --taxonomy)'}, the taxa "
            f"{list_some(sorted(grouping.taxa), most=20)}"
        )

    def side(name: str, taxon: int) -> int:
        if taxon < 0:
            return -1
        ways = {taxon_key(part) for part in (name, grouping.taxa[taxon], grouping.groups[taxon])}
        return next((number for number, side_keys in enumerate(keys) if ways & side_keys), -1)

    sides = [side(name, taxon) for name, taxon in zip(names, grouping.taxon_of_label, strict=True)]
    neither = {
        grouping.taxa[taxon]
        for number, taxon in zip(sides, grouping.taxon_of_label, strict=True)
        if taxon >= 0 and number < 0 and taxon_key(grouping.taxa[taxon]) not in _KINDS
    }
    return sides, tuple(sorted(neither))


def _count_apart(well: WellSamples) -> NDArray[np.int64]:
    """Return (samples, parts) labelled objects that the assemblage does not count."""
    counted = np.zeros((len(well.samples), len(PARTS)), np.int64)
    for row, sample in enumerate(well.samples):
        for kind, part in _PART_OF_KIND.items():
            counted[row, part] += sample.apart.get(kind, 0)
        counted[row, PARTS.index("palynomorphs")] += sum(
            sample.apart.get(name, 0) for name in _PALYNOMORPHS_APART
        )
    return counted


def _reworking(
    well: WellSamples, names: Sequence[str], grouping: TaxonGrouping, level: float
) -> Reworking | None:
    if well.determined is None:
        return None
    palynomorphs = PARTS.index("palynomorphs")
    in_place = sum_determined(well, names, _parts(names, grouping), len(PARTS))[:, palynomorphs]
    labelled = in_place + _count_apart(well)[:, palynomorphs]
    reworked = np.array([sample.apart.get(_REWORKED, 0) for sample in well.samples], np.int64)
    if not reworked.any():
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = reworked / labelled
    low, high = wilson(reworked.astype(np.float64), labelled.astype(np.float64), level=level)
    return Reworking(labelled, reworked, shares, low, high)


def describe_palynofacies(composition: Palynofacies, samples: int, *, level: float) -> Iterator[str]:
    """Describe palynofacies of a number of samples in sentences."""
    if composition.facies is not None:
        yield "palynofacies, mean of the samples: " + ", ".join(
            f"{100 * share:.0f} % {part}"
            for part, share in zip(PARTS, np.nanmean(composition.facies.shares, axis=0).tolist(), strict=True)
        )
    if composition.marine is not None:
        yield from _describe_range(
            "marine palynomorphs, of marine and terrestrial ones", composition.marine.shares[:, 0]
        )
        if composition.neither:
            yield f"neither marine nor terrestrial, and in no marine share: {list_some(composition.neither, most=12)}"
    if composition.reworking is not None:
        total, labelled = int(composition.reworking.reworked.sum()), int(composition.reworking.labelled.sum())
        low, high = (
            float(end[0])
            for end in wilson(np.array([float(total)]), np.array([float(labelled)]), level=level)
        )
        yield (
            f"reworked: {total:,} of {labelled:,} labelled palynomorphs in {samples} samples, "
            f"{100 * total / labelled:.1f} % ({100 * low:.1f} to {100 * high:.1f} % if they were labelled at random)"
        )
    if composition.is_known:
        yield from composition.missing


def _describe_range(what: str, shares: NDArray[np.float64]) -> Iterator[str]:
    known = shares[np.isfinite(shares)]
    if known.size:
        yield f"{what}: {100 * known.min():.0f} to {100 * known.max():.0f} % by sample"
