"""Exact bounds on shares from the draws of an audit.

In a stratum one object is drawn from each of several zones of equal size, independently (`allocation`). The number of
wrong calls among m draws is therefore a sum of independent indicators with other probabilities from zone to zone; only
their mean, the share of wrong calls in the stratum, is the same as in a binomial sample. By Hoeffding (1956, "On the
distribution of the number of successes in independent trials", Ann. Math. Statist. 27, 713-721, theorem 4), such a sum
is at most c with no greater probability than the binomial number, for each c up to one below its mean; and the bound
of Clopper and Pearson (1934, Biometrika 26, 404-413) depends on other c only if c is m - 1, because a binomial number
is at most its mean with a probability of at least a quarter (Greenberg and Mohri 2014, Stat. Probab. Lett. 86, 91-98).
With the bound of m - 1 wrong calls set to 1, Clopper and Pearson's bounds hold at their level or above, for tails of up
to a quarter. A random part of the draws, as when labelling stopped early in the random order, is such a sum as well:
its generating polynomial is an elementary symmetric polynomial of linear factors, so all its roots are real.

Strata have different weights. A bound on a weighted sum of binomials needs a maximum over all their shares (Wendell and
Schmee 1996, J. Am. Stat. Assoc. 91, 825-830), and bounds by betting (Waudby-Smith and Ramdas 2024, J. R. Stat. Soc. B
86, 1-27) are wider for a number of draws that is fixed beforehand. Instead, draws that stand for fewer objects than
others are marked with a lower probability, before anything is labelled, so that an object's expected number of marks is
the same in all strata. Marked wrong calls are then one sum of independent indicators for the whole population.
"""

from __future__ import annotations

import math
from functools import lru_cache

MOST_TAIL = 0.25
"""Probability of error up to which the bounds are exact."""
MOST_DRAWS = 10_000_000


@lru_cache(maxsize=10_000)
def upper_bound(hits: int, draws: int, *, tail: float) -> float:
    """Return the share that is exceeded with a probability of at most `tail`, if `hits` of the draws have a property.

    tail: at most MOST_TAIL. Without draws it is 1.
    """
    from scipy.stats import beta

    if hits >= draws - 1:
        return 1.0
    return float(beta.ppf(1 - tail, hits + 1, draws - hits))


def lower_bound(hits: int, draws: int, *, tail: float) -> float:
    """Return the share below which the true one lies with a probability of at most `tail`, as `upper_bound` does."""
    return 1 - upper_bound(draws - hits, draws, tail=tail) if draws else 0.0


def draws_needed(share: float, bound: float, *, tail: float, scale: float = 1.0) -> int | None:
    """Return how many draws give an upper bound of at most `bound`, if a share of `share` is hits again.

    Args:
        scale: objects per expected mark, in those per draw: `TotalDraws.scale`; 1 in a stratum.

    Returns:
        None if the share is not below the bound, or more than MOST_DRAWS are needed.
    """

    def fits(draws: int) -> bool:
        hits = math.ceil(draws * share / scale - 1e-9)
        return scale * upper_bound(hits, draws, tail=tail) <= bound

    if share >= bound:
        return None
    high = 2
    while not fits(high):
        high *= 2
        if high > MOST_DRAWS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
