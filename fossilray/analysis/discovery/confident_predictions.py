"""Confident predictions of a run: those to keep so that few are wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fossilray.core.errors import RunNotFound, UsageError
from fossilray.models.heads.conformal import benjamini_hochberg_threshold
from fossilray.store import RunStore
from fossilray.store.derived.listing import latest_predictions
from fossilray.store.query.connection import connect, query_table
from fossilray.store.query.views import quote


@dataclass(frozen=True)
class ConfidentPredictions:
    """Predictions of a run up to a threshold of uncertainty."""

    head: str
    wrong_p: float | None
    """Highest p-value that is kept; None: no prediction can be kept."""
    entropy: float | None
    """Highest entropy that is kept, the same threshold."""
    kept: int
    known: int
    """Kept predictions of objects that are not novel."""
    objects: int
    """Objects with a genus, kept or not."""
    genera: pa.Table
    """Columns genus, objects, kept, known."""

    def condition(self, novelty_p: float) -> str:
        """Return SQL on the view `predictions` that selects kept predictions of objects that are not novel."""
        limit = -1.0 if self.wrong_p is None else self.wrong_p
        return f"head = {quote(self.head)} AND wrong_p <= {limit:.8g} AND novelty_p > {novelty_p:g}"


def select_confident(
    store: RunStore, *, head: str | None, wrong_share: float, novelty_p: float = 0.01
) -> ConfidentPredictions:
    """Select the predictions among which the expected share of wrong ones is at most `wrong_share`.

    Only counts by p-value are read, and there are no more distinct p-values than labels.

    Args:
        head: name of the predictions; None: the newest.
        novelty_p: objects with a p-value of novelty up to this one are novel.

    Raises:
        RunNotFound: the run has no predictions, or none of this name.
        UsageError: the predictions have no uncertainty.
    """
    predictions = latest_predictions(store, head)
    if predictions is None:
        raise RunNotFound(f"{store.url} has no predictions; make some with `fossilray classify run`")
    if not predictions.results.record.is_calibrated:
        raise UsageError(
            f"the predictions {predictions.results.name} are not calibrated, because their head has no calibration; "
            "train it again with `fossilray classify train`, and classify under another --name"
        )
    con = connect(store, sql="predictions")
    source = f"predictions WHERE head = {quote(predictions.results.name)} AND genus IS NOT NULL"
    counts = query_table(con, f"SELECT wrong_p, count(*) AS n FROM {source} GROUP BY ALL ORDER BY ALL")
    values = counts["wrong_p"].to_numpy().astype(np.float64)
    limit = benjamini_hochberg_threshold(values, counts["n"].to_numpy(), wrong_share=wrong_share)
    # Stored p-values are float32; the small margin keeps those that equal the limit.
    kept = f"wrong_p <= {-1.0 if limit is None else limit + 1e-9!r}"
    genera = query_table(
        con,
        f"SELECT genus, count(*) AS objects, count(*) FILTER ({kept}) AS kept, "
        f"count(*) FILTER ({kept} AND novelty_p > {novelty_p!r}) AS known "
        f"FROM {source} GROUP BY genus ORDER BY objects DESC, genus",
    )
    highest = query_table(con, f"SELECT max(entropy) AS e FROM {source} AND {kept}")["e"][0].as_py()
    total = {name: sum(genera[name].to_pylist()) for name in ("objects", "kept", "known")}
    return ConfidentPredictions(
        head=predictions.results.name,
        wrong_p=None if limit is None else limit + 1e-9,
        entropy=highest,
        kept=total["kept"],
        known=total["known"],
        objects=total["objects"],
        genera=genera,
    )
