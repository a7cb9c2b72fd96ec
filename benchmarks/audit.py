"""How often the bounds of audits hold, and how far corrected shares are from the truth, on drawn populations.

python benchmarks/audit.py
python benchmarks/audit.py --audits 1000

A population has twelve samples, in which taxa come and go, and calls with known errors. Each cell draws many audits of
one population, with the code that `fossilray audit` runs, and counts how often the bounds hold: of the share of wrong
calls in all, from above and from below; of that of each called taxon; of the corrected share of each taxon. The bias is
that of the corrected shares, in standard errors of the mean over the audits, the largest of all taxa. The error is the
share of the assemblage under wrong taxa (total variation distance), as called and corrected.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.audit.estimates import AuditSample, corrected_shares, wrong_calls
from fossilray.labels.audit.allocation import Stratum, allocate_draws, draw_marks, draw_positions

SAMPLES = 12
LEVEL = 0.95
Labelling = Literal["all", "first half", "wrong calls doubtful", "each tenth passed over"]


@dataclass(frozen=True)
class Cell:
    """A population, the size of an audit, and how it is labelled."""

    name: str
    objects: int = 20_000
    taxa: int = 12
    wrong: float = 0.15
    """Mean share of wrong calls."""
    others: int = 0
    """Taxa that the head does not know; their objects are called by the names of others."""
    in_one_sample: bool = False
    """Whether all errors lie in one sample."""
    rare_wrong: bool = False
    """Whether the calls of the rarer half of the taxa are mostly wrong."""
    draws: int = 300
    labelling: Labelling = "all"


@dataclass(frozen=True)
class CellResult:
    """What was found over the audits of a cell."""

    wrong: float
    """True share of wrong calls."""
    high: float
    """Mean upper bound."""
    held_above: float
    """Share of audits whose upper bound of all calls holds."""
    held_below: float
    held_by_taxon: float
    """Share of the upper bounds of called taxa that hold, of the taxon where fewest do."""
    held_shares: float
    """Share of the intervals of corrected shares that hold, of the taxon where fewest do."""
    bias: float | None
    """None where the doubts depend on the calls."""
    error_called: float
    error_corrected: float


CELLS = (
    Cell("as usual"),
    Cell("few wrong", wrong=0.01),
    Cell("half wrong", wrong=0.5),
    Cell("errors in one sample", wrong=0.08, in_one_sample=True),
    Cell("40 taxa, rare ones wrong", taxa=40, rare_wrong=True),
    Cell("6 unknown taxa", others=6, wrong=0.1),
    Cell("500 objects", objects=500),
    Cell("60 draws", draws=60),
    Cell("1,000 draws", draws=1000),
    Cell("half of it labelled", labelling="first half"),
    Cell("each tenth passed over", labelling="each tenth passed over"),
    Cell("wrong calls doubtful", wrong=0.03, labelling="wrong calls doubtful"),
)


@dataclass(frozen=True)
class Population:
    """Calls in the order in which audits cut them into zones, and what they are."""

    call: NDArray[np.int64]
    truth: NDArray[np.int64]
    names: tuple[str, ...]

    @cached_property
    def shares(self) -> NDArray[np.float64]:
        """True share of each name."""
        return np.bincount(self.truth, minlength=len(self.names)) / len(self.truth)


def draw_population(cell: Cell, rng: np.random.Generator) -> Population:
    """Draw the objects of a population with their calls, sorted by call and sample."""
    known = cell.taxa
    names = tuple(f"taxon {number:02}" for number in range(known + cell.others))
    common = 1 / np.arange(1, known + cell.others + 1)
    if cell.others:
        common = rng.permutation(common)
    mixtures = rng.dirichlet(6 * common / common.sum() + 1e-3, size=SAMPLES)
    sample = np.sort(rng.integers(SAMPLES, size=cell.objects))
    truth = np.array([rng.choice(len(names), p=mixtures[at]) for at in sample.tolist()])
    rate = np.clip(rng.beta(4 * cell.wrong, 4 * (1 - cell.wrong), size=len(names)), 0, 0.98)
    is_wrong = rng.random(cell.objects) < rate[truth]
    if cell.in_one_sample:
        is_wrong = sample == SAMPLES // 2
    is_wrong |= truth >= known
    if cell.rare_wrong:
        # Common taxa that are called by the names of rare ones.
        is_wrong |= rng.random(cell.objects) < 0.03
    likely = rng.dirichlet(np.full(known, 0.5), size=len(names)) + 1e-6
    if cell.rare_wrong:
        likely[:, : known // 2] *= 0.2
    likely[np.arange(known), np.arange(known)] = 0
    likely /= likely.sum(axis=1, keepdims=True)
    call = truth.copy()
    for row in np.flatnonzero(is_wrong).tolist():
        call[row] = rng.choice(known, p=likely[truth[row]])
    order = np.lexsort((sample, call))
    return Population(call[order], truth[order], names)


def measure(cell: Cell, *, audits: int, seed: int = 0) -> CellResult:
    """Audit the population of a cell again and again."""
    rng = np.random.default_rng([seed, len(cell.name), cell.objects, cell.draws])
    population = draw_population(cell, rng)
    counts = np.bincount(population.call, minlength=cell.taxa)
    strata = allocate_draws(
        {population.names[taxon]: int(number) for taxon, number in enumerate(counts[: cell.taxa]) if number},
        cell.draws,
    )
    is_wrong = population.call != population.truth
    wrong = float(is_wrong.mean())
    names = population.names
    rows_of = [
        np.flatnonzero(np.isin(population.call, [names.index(name) for name in stratum.taxa]))
        for stratum in strata
    ]
    above, below, high = 0, 0, []
    by_taxon = np.zeros(len(strata))
    found = np.zeros((audits, len(names)))
    held = np.zeros((audits, len(names)))
    for audit in range(audits):
        sample = _draw_sample(cell, population, strata, rows_of, rng)
        total, of_strata = wrong_calls(sample, level=LEVEL)
        above += total.share.high >= wrong - 1e-12
        below += total.share.low <= wrong + 1e-12
        high.append(total.share.high)
        for number, each in enumerate(of_strata):
            by_taxon[number] += each.share.high >= is_wrong[rows_of[number]].mean() - 1e-12
        for number, share in enumerate(corrected_shares(sample, level=LEVEL)):
            found[audit, number] = share.share or 0.0
            held[audit, number] = share.low - 1e-12 <= population.shares[number] <= share.high + 1e-12
    spread = found.std(axis=0, ddof=1) / np.sqrt(audits)
    bias = np.abs(found.mean(axis=0) - population.shares) / np.maximum(spread, 1e-9)
    called = np.bincount(population.call, minlength=len(population.names)) / len(population.call)
    return CellResult(
        wrong=wrong,
        high=float(np.mean(high)),
        held_above=above / audits,
        held_below=below / audits,
        held_by_taxon=float(by_taxon.min()) / audits,
        held_shares=float(held.mean(axis=0).min()),
        bias=None if cell.labelling == "wrong calls doubtful" else float(bias[spread > 1e-9].max(initial=0)),
        error_called=_error(called, population.shares),
        error_corrected=float(np.mean([_error(each, population.shares) for each in found])),
    )


def _draw_sample(
    cell: Cell,
    population: Population,
    strata: list[Stratum],
    rows_of: list[NDArray[np.int64]],
    rng: np.random.Generator,
) -> AuditSample:
    """Draw an audit and label it in the way of the cell."""
    rows = np.concatenate(
        [
            of_it[draw_positions(each.objects, each.draws, rng)]
            for of_it, each in zip(rows_of, strata, strict=True)
        ]
    )
    stratum = np.repeat(np.arange(len(strata)), [each.draws for each in strata])
    is_marked = np.concatenate(draw_marks(strata, rng))
    call, truth = population.call[rows], population.truth[rows].copy()
    if cell.labelling == "wrong calls doubtful":
        truth[(call != truth) & (rng.random(len(rows)) < 0.7)] = -1
    if cell.labelling == "each tenth passed over":
        truth[rng.random(len(rows)) < 0.1] = -1
    order = rng.permutation(len(rows))
    if cell.labelling == "first half":
        order = order[: len(order) // 2]
    return AuditSample(
        tuple(strata), stratum[order], is_marked[order], call[order], truth[order], population.names
    )


def _error(shares: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    return float(np.abs(shares - truth).sum() / 2)


def main() -> None:
    """Print a line for each cell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--audits", type=int, default=400, help="audits of each population")
    options = parser.parse_args()
    print(
        f"{'population':26} wrong  bound  held: above  below  by taxon  shares    bias  error: called corrected"
    )
    for cell in CELLS:
        found = measure(cell, audits=options.audits)
        bias = "" if found.bias is None else f"{found.bias:.1f}"
        errors = f"{found.error_called:.3f}     {found.error_corrected:.3f}"
        print(
            f"{cell.name:26} {found.wrong:.3f}  {found.high:.3f}        {found.held_above:.3f}  "
            f"{found.held_below:.3f}  {found.held_by_taxon:8.3f}  {found.held_shares:6.3f}  {bias:>6}         {errors}",
            flush=True,
        )


if __name__ == "__main__":
    main()
