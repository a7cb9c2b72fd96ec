"""Which calls of a run to keep, so that few of them are wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fossilray.core.errors import RunNotFound, UsageError
from fossilray.models.heads.conformal import benjamini_hochberg_threshold
from fossilray.store import RunStore
from fossilray.store.derived.derived_store import CALIBRATED_VERSION
from fossilray.store.derived.listing import latest_predictions
from fossilray.store.query.connection import connect, query_table
from fossilray.store.query.views import quote


@dataclass(frozen=True)
class ConfidentPredictions:
    """Calls of a run that stay below one entropy."""

    head: str
    wrong_p: float | None
    """The highest p-value kept; None: no call can be."""
    entropy: float | None
    """The highest entropy kept, which says the same."""
    kept: int
    known: int
    """Kept, and not too far from all labels."""
    objects: int
    """With a genus, kept or not."""
    genera: pa.Table
    """genus, objects, kept, known."""

    def condition(self, novelty_p: float) -> str:
        """SQL on the view `predictions` for what is kept and known."""
        limit = -1.0 if self.wrong_p is None else self.wrong_p
        return f"head = {quote(self.head)} AND wrong_p <= {limit:.8g} AND novelty_p > {novelty_p:g}"


def select_confident(
    store: RunStore, *, head: str | None, wrong_share: float, novelty_p: float = 0.01
) -> ConfidentPredictions:
    """The calls to keep so that the expected share of wrong ones among them is at most `wrong_share`.

    head: name of the predictions; None: the newest. novelty_p: calls of objects at most so likely to be of a known
    genus are counted apart. What is read of the run are counts by p-value, of which there are as many as labels.

    Raises:
        RunNotFound: there are no predictions, or none of this name.
        UsageError: they do not say how sure they are.
    """
    chosen = latest_predictions(store, head)
    if chosen is None:
        raise RunNotFound(f"{store.url} has no predictions; make some with `fossilray classify run`")
    if chosen.answers.record.schema_version != CALIBRATED_VERSION:
        raise UsageError(
            f"the predictions {chosen.answers.name} do not say how sure they are, for their head does not know; train "
            "it again with `fossilray classify train`, and classify under another --name"
        )
    con = connect(store, sql="predictions")
    source = f"predictions WHERE head = {quote(chosen.answers.name)} AND genus IS NOT NULL"
    counted = query_table(con, f"SELECT wrong_p, count(*) AS n FROM {source} GROUP BY ALL ORDER BY ALL")
    values = counted["wrong_p"].to_numpy().astype(np.float64)
    limit = benjamini_hochberg_threshold(values, counted["n"].to_numpy(), wrong_share=wrong_share)
    # The stored number is float32, and so is the limit: one that lies in between would drop what it equals.
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
        head=chosen.answers.name,
        wrong_p=None if limit is None else limit + 1e-9,
        entropy=highest,
        kept=total["kept"],
        known=total["known"],
        objects=total["objects"],
        genera=genera,
    )
