"""Draws of audits: a random sample of a head's calls, spread over samples and called taxa, as a folder to label."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from fossilray.core.errors import RunNotFound, UsageError
from fossilray.core.records import UNASSIGNED_WELL, utc_now
from fossilray.labels.audit.allocation import PER_TAXON, Stratum, allocate_draws, draw_marks, draw_positions
from fossilray.labels.audit.audit_record import (
    AUDIT_DRAWS,
    AUDIT_FORMAT,
    AUDIT_JSON,
    AuditDraw,
    AuditRecord,
    encode_audit_record,
    encode_draws,
)
from fossilray.labels.audit.population import AuditRequest, limit_population, population_sql
from fossilray.labels.current import attempts_of
from fossilray.labels.label_folder import refuse_used_folder, write_label_folder
from fossilray.store import RunStore
from fossilray.store.derived.listing import DerivedListing, current_predictions
from fossilray.store.query.connection import connect, create_objects_view, query_table

if TYPE_CHECKING:
    from fossilray.store.query.connection import Connection

AUDIT_TABLE = "audit.csv"

_TABLE_COLUMNS = (
    *("rank", "file", "slide_id", "object_id", "well", "measured_depth_m", "width_um", "height_um"),
    *("guess", "score", "chosen_by", "genus"),
)
_SLIDES_PER_BATCH = 16
_Cell = tuple[str, str, int]
"""Called taxon, slide_id, and number of objects."""


@dataclass(frozen=True)
class DrawnAudit:
    """An audit that was drawn."""

    record: AuditRecord
    objects: int
    """Drawn objects; one that was drawn twice counts once."""
    wells: Mapping[str, int]
    """Of these by well."""
    without_predictions: int
    """Committed slides whose objects have no current predictions; they are not part of the population."""


def draw_audit(
    store: RunStore,
    out: Path,
    request: AuditRequest,
    *,
    count: int,
    per_taxon: int = PER_TAXON,
    shows_calls: bool = False,
    seed: int = 0,
) -> DrawnAudit:
    """Draw `count` calls at random and write them into `out`: images and tables to label, and the record of the audit.

    The layout is that of `suggest_objects`; calls are not shown unless `shows_calls`. Equal runs, populations and seeds
    give equal draws. Memory is needed for the counts of each slide, and for the objects of a few slides.

    Args:
        count: at least 2; of fewer objects all are drawn.
        per_taxon: least number of draws of each called taxon.

    Raises:
        UsageError: no call is in the population, a name to leave out is none of the head's, or `out` is not empty.
        RunNotFound: the run has no predictions, or none of this name.
        QueryError: DuckDB refuses the condition.
    """
    refuse_used_folder(out, "draws of two audits")
    summaries = store.summaries()
    predictions = current_predictions(store, request.predictions, summaries)
    if predictions is None:
        raise RunNotFound(f"{store.url} has no predictions to audit; make some with `fossilray classify run`")
    population, labelled = limit_population(store, request, predictions)
    query = population_sql(population, predictions.results.name, has_labels=bool(labelled))
    con = connect(store, sql="predictions" if population.wrong is not None else population.where or "")
    con.register("labelled", _table_of_keys(labelled))
    cells = _count_cells(con, store, predictions, query)
    objects: Counter[str] = Counter()
    for taxon, _, number in cells:
        objects[taxon] += number
    if not objects:
        raise UsageError(f"{store.url} has no call of the population: {population.describe()}")
    strata = allocate_draws(objects, count, per_taxon=per_taxon)
    rng = np.random.default_rng([seed, 11])
    chosen = _choose(cells, strata, rng)
    rows = _read_rows(con, store, predictions, query, chosen)
    draws = _draws(chosen, rows, strata, attempts_of(store), rng)
    encoded = encode_draws(draws)
    record = AuditRecord(
        format=AUDIT_FORMAT,
        created_at=utc_now(),
        run=store.url,
        run_digest=store.read_run().digest,
        predictions=predictions.results.name,
        head_sha256=str((predictions.results.record.head or {}).get("sha256", "")),
        population=population,
        objects=objects.total(),
        strata=tuple(strata),
        seed=seed,
        draws_sha256=hashlib.sha256(encoded).hexdigest(),
    )
    shown = _shown_rows(draws, rows, record, shows_calls=shows_calls)
    write_label_folder(
        store,
        out,
        pa.table({name: [row[name] for row in shown] for name in ("arrays", "object_id")}),
        shown,
        table=AUDIT_TABLE,
        columns=[name for name in _TABLE_COLUMNS if shows_calls or name not in ("guess", "score")],
        others={AUDIT_DRAWS: encoded, AUDIT_JSON: encode_audit_record(record)},
    )
    return DrawnAudit(
        record,
        len(shown),
        Counter(row["well"] for row in shown),
        sum(summary.slide_id not in predictions.files for summary in summaries),
    )


def _table_of_keys(keys: Sequence[tuple[str, int]]) -> pa.Table:
    return pa.table(
        {
            "slide_id": pa.array([slide_id for slide_id, _ in keys], pa.string()),
            "object_id": pa.array([object_id for _, object_id in keys], pa.int32()),
        }
    )


def _count_cells(con: Connection, store: RunStore, predictions: DerivedListing, query: str) -> list[_Cell]:
    """Return the calls of each taxon on each slide; slides in the order of wells and depths."""
    committed = store.committed_files()
    files = {slide_id: committed[slide_id] for slide_id in predictions.files if slide_id in committed}
    create_objects_view(con, store, files, genera=predictions)
    table = query_table(
        con,
        f"SELECT genus, slide_id, count(*) AS number {query} GROUP BY genus, slide_id, well, measured_depth_m "
        "ORDER BY genus, well, measured_depth_m NULLS LAST, slide_id",
    )
    columns = (table[name].to_pylist() for name in ("genus", "slide_id", "number"))
    return list(zip(*columns, strict=True))


def _choose(
    cells: Sequence[_Cell], strata: Sequence[Stratum], rng: np.random.Generator
) -> list[tuple[int, str, str, int]]:
    """Return stratum, called taxon, slide_id and position among the taxon's objects on the slide of each draw."""
    chosen: list[tuple[int, str, str, int]] = []
    of_taxon: dict[str, list[_Cell]] = defaultdict(list)
    for cell in cells:
        of_taxon[cell[0]].append(cell)
    for number, stratum in enumerate(strata):
        listed = [cell for taxon in stratum.taxa for cell in of_taxon[taxon]]
        ends = np.cumsum([size for _, _, size in listed])
        positions = draw_positions(stratum.objects, stratum.draws, rng)
        cell_of = np.searchsorted(ends, positions, side="right")
        for position, row in zip(positions.tolist(), cell_of.tolist(), strict=True):
            taxon, slide_id, size = listed[row]
            chosen.append((number, taxon, slide_id, position - int(ends[row]) + size))
    return chosen


def _read_rows(
    con: Connection,
    store: RunStore,
    predictions: DerivedListing,
    query: str,
    chosen: Sequence[tuple[int, str, str, int]],
) -> list[dict[str, Any]]:
    """Return the columns of each chosen object."""
    committed = store.committed_files()
    slides = sorted({slide_id for _, _, slide_id, _ in chosen})
    columns_of: dict[tuple[str, str, int], dict[str, Any]] = {}
    for first in range(0, len(slides), _SLIDES_PER_BATCH):
        batch = slides[first : first + _SLIDES_PER_BATCH]
        create_objects_view(con, store, {name: committed[name] for name in batch}, genera=predictions)
        table = query_table(
            con,
            "SELECT slide_id, object_id, well, measured_depth_m, arrays, width_um, height_um, genus, genus_score "
            f"{query} ORDER BY slide_id, genus, object_id",
        )
        of_cell: dict[tuple[str, str], list[int]] = defaultdict(list)
        keys = zip(table["slide_id"].to_pylist(), table["genus"].to_pylist(), strict=True)
        for row, key in enumerate(keys):
            of_cell[key].append(row)
        wanted = [draw for draw in dict.fromkeys(draw[1:] for draw in chosen) if draw[1] in batch]
        rows = table.take([of_cell[slide_id, taxon][position] for taxon, slide_id, position in wanted])
        columns_of.update(zip(wanted, rows.to_pylist(), strict=True))
    return [columns_of[draw[1:]] for draw in chosen]


def _draws(
    chosen: Sequence[tuple[int, str, str, int]],
    rows: Sequence[Mapping[str, Any]],
    strata: Sequence[Stratum],
    attempts: Mapping[str, str],
    rng: np.random.Generator,
) -> list[AuditDraw]:
    """Return the draws in a random order."""
    marks = np.concatenate(draw_marks(strata, rng)).tolist()
    draws = [
        AuditDraw(
            slide_id=row["slide_id"],
            object_id=row["object_id"],
            attempt=attempts[row["slide_id"]],
            well=row["well"] or UNASSIGNED_WELL,
            measured_depth_m=row["measured_depth_m"],
            call=taxon,
            stratum=number,
            weight=strata[number].objects / strata[number].draws,
            is_marked=is_marked,
        )
        for (number, taxon, _, _), row, is_marked in zip(chosen, rows, marks, strict=True)
    ]
    return [draws[position] for position in rng.permutation(len(draws)).tolist()]


def _shown_rows(
    draws: Sequence[AuditDraw], rows: Sequence[dict[str, Any]], record: AuditRecord, *, shows_calls: bool
) -> list[dict[str, Any]]:
    """Return the rows of the table to fill in: each object once, in the order of the draws."""
    by_key = {(row["slide_id"], row["object_id"]): row for row in rows}
    shown = []
    for rank, key in enumerate(dict.fromkeys(draw.key for draw in draws), 1):
        row = {
            **by_key[key],
            "rank": rank,
            "why": "at random, for an audit",
            "chosen_by": record.chosen_by,
            "genus": None,
        }
        row["well"] = row["well"] or UNASSIGNED_WELL
        if shows_calls:
            row["guess"], row["score"] = by_key[key]["genus"], f"{by_key[key]['genus_score']:.4f}"
        shown.append(row)
    return shown
