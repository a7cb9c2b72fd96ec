"""SQL of the views over a run: files and columns of each view. DuckDB is not imported here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa

from fossilray.core.schemas import (
    NEW_OBJECT_COLUMNS,
    OBJECTS_SCHEMA,
    PREDICTIONS_SCHEMA,
    RANKED_PREDICTIONS_SCHEMA,
)
from fossilray.store.derived.listing import DerivedListing
from fossilray.store.run.layout import OBJECTS, DerivedKind
from fossilray.store.run.run_store import RunStore
from fossilray.store.samples.corrections import NO_CORRECTIONS, Corrections

CORRECTED_WELLS, CORRECTED_DEPTHS = "fossilray_corrected_wells", "fossilray_corrected_depths"
_DEPTH = "measured_depth_m"


def objects_sql(
    store: RunStore,
    files: Mapping[str, str] | None,
    *,
    without: Collection[str] = frozenset(),
    corrections: Corrections = NO_CORRECTIONS,
) -> str:
    """SQL for all objects (None), or those of some slides, whose files are given by slide_id.

    without: files that are not read. corrections: the tables of `correction_tables` are registered.
    """
    if not corrections:
        return _stored_objects_sql(store, files, without)
    known = store.committed_files() if files is None else files
    moved = {slide_id: known[slide_id] for slide_id in corrections.wells if slide_id in known}
    return corrected_sql(
        _typed(OBJECTS_SCHEMA),
        _stored_objects_sql(store, files, without),
        _stored_objects_sql(store, moved, without) if moved else None,
        corrections,
    )


def _stored_objects_sql(store: RunStore, files: Mapping[str, str] | None, without: Collection[str]) -> str:
    columns = _typed(OBJECTS_SCHEMA)
    if files is None:
        paths = sorted(set(store.committed_files().values()) - set(without))
        glob = [_escaped_url(store.url, OBJECTS) + "/*/*.parquet"] if paths else []
        urls = [_escaped_url(store.url, path) for path in paths] if without else glob
    else:
        urls = [_escaped_url(store.url, path) for path in sorted(set(files.values()) - set(without))]
    missing = NEW_OBJECT_COLUMNS if store.has_old_objects else ()
    sql = _read(urls, columns, root=store.root, may_lack=missing)
    return sql if files is None else only_slides(files, sql)


def derived_sql(
    kind: DerivedKind,
    listed: Sequence[DerivedListing],
    *,
    without: Collection[str] = frozenset(),
    corrections: Corrections = NO_CORRECTIONS,
) -> str:
    """SQL for all derived results of a kind; the first column is their name: `head` or `name`.

    without: files that are not read, as <name>/<file>. corrections: as of `objects_sql`.
    """
    columns, name_column = _derived_columns(kind), "head" if kind == "predictions" else "name"

    def rows(listing: DerivedListing) -> str:
        stored = _filled(columns, listing, _derived_urls(listing, without))
        if not corrections.wells:
            return stored
        paths = [listing.files[slide_id] for slide_id in corrections.wells if slide_id in listing.files]
        kept = [path for path in sorted(paths) if f"{listing.results.name}/{path}" not in without]
        moved = [_escaped_url(listing.results.url, path) for path in kept]
        return corrected_sql(
            columns, stored, _filled(columns, listing, moved) if moved else None, corrections
        )

    parts = [
        f"SELECT {quote(listing.results.name)} AS {name_column}, * FROM ({rows(listing)})"
        for listing in listed
        if listing.files
    ]
    empty = f"SELECT NULL::VARCHAR AS {name_column}, * FROM ({_read([], columns, root='')})"
    return " UNION ALL ".join(parts or [empty])


def corrected_sql(columns: Collection[str], stored: str, moved: str | None, corrections: Corrections) -> str:
    """SQL of these columns and `well` with the wells and depths that were corrected.

    The rows of slides that stay in their wells are read as they are stored, so that a condition on `well` still skips
    the files of other wells.

    stored: SQL of the rows of all slides. moved: SQL of the rows of slides whose wells were corrected.
    """
    others = f"WHERE slide_id NOT IN (SELECT slide_id FROM {CORRECTED_WELLS})" if corrections.wells else ""
    parts = [f"SELECT {', '.join(columns)}, well FROM ({stored}) {others}"]
    if moved is not None:
        # An inner join: files of a compacted dataset hold other slides too.
        parts.append(
            f"SELECT {', '.join(f's.{name}' for name in columns)}, c.well FROM ({moved}) s "
            f"JOIN {CORRECTED_WELLS} c ON s.slide_id = c.slide_id"
        )
    rows = " UNION ALL ".join(parts)
    if _DEPTH not in columns or not corrections.depths:
        return rows
    named = ", ".join(
        f"CASE WHEN d.slide_id IS NULL THEN o.{name} ELSE d.{name} END AS {name}"
        if name == _DEPTH
        else f"o.{name}"
        for name in columns
    )
    return f"SELECT {named}, o.well FROM ({rows}) o LEFT JOIN {CORRECTED_DEPTHS} d ON o.slide_id = d.slide_id"


def correction_tables(corrections: Corrections) -> dict[str, pa.Table]:
    """The tables that `corrected_sql` joins, by name."""
    return {
        CORRECTED_WELLS: pa.table(
            {"slide_id": list(corrections.wells), "well": list(corrections.wells.values())},
            schema=pa.schema([("slide_id", pa.string()), ("well", pa.string())]),
        ),
        CORRECTED_DEPTHS: pa.table(
            {"slide_id": list(corrections.depths), _DEPTH: list(corrections.depths.values())},
            schema=pa.schema([("slide_id", pa.string()), (_DEPTH, pa.float64())]),
        ),
    }


def _derived_urls(listed: DerivedListing, without: Collection[str]) -> list[str]:
    if not without:
        return [_escaped_url(listed.results.url) + "/*/*.parquet"]
    kept = [path for path in sorted(listed.files.values()) if f"{listed.results.name}/{path}" not in without]
    return [_escaped_url(listed.results.url, path) for path in kept]


def object_types() -> dict[str, str]:
    """Return the DuckDB type of each column of `objects`."""
    return _typed(OBJECTS_SCHEMA)


def derived_types(kind: DerivedKind) -> dict[str, str]:
    """DuckDB's types of the columns of one kind of derived results."""
    return _derived_columns(kind)


def with_genera_sql(
    objects: str,
    listed: DerivedListing,
    slide_ids: Collection[str] | None,
    *,
    without: Collection[str] = frozenset(),
) -> str:
    """Return the SQL of the objects with their predictions as further columns.

    Added are genus, genus_score, genus_entropy, genus_2 and genus_2_score, null for objects without a prediction.

    slide_ids: slides whose predictions are read; None: all. without: files that are left out, as <name>/<file>.
    """
    chosen = listed.files.keys() if slide_ids is None else listed.files.keys() & set(slide_ids)
    kept = [
        path
        for path in map(listed.files.__getitem__, sorted(chosen))
        if f"{listed.results.name}/{path}" not in without
    ]
    urls = [_escaped_url(listed.results.url, path) for path in kept]
    predictions = _read(urls, _typed(PREDICTIONS_SCHEMA), root=listed.results.files.root)
    return (
        "SELECT o.*, p.genus, p.score AS genus_score, p.entropy AS genus_entropy, p.genus_2, "
        "p.score_2 AS genus_2_score "
        f"FROM ({objects}) o LEFT JOIN ({predictions}) p USING (slide_id, object_id)"
    )


def only_slides(slide_ids: Collection[str], sql: str) -> str:
    """Restrict SQL to the rows of some slides; DuckDB skips the row groups of other slides."""
    return (
        f"SELECT * FROM ({sql}) WHERE slide_id IN ({', '.join(map(quote, slide_ids))})" if slide_ids else sql
    )


def quote(text: str) -> str:
    """Quote a text as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def escape_glob(url: str) -> str:
    """Escape a path or URL for DuckDB's glob, so that it matches itself."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in url)


def _read(
    urls: Sequence[str], columns: Mapping[str, str], *, root: str, may_lack: Collection[str] = ()
) -> str:
    """Return the SQL of these columns and `well` of Parquet files partitioned by well; no rows without files.

    may_lack: columns that are null where a file does not have them. DuckDB opens every file for it.
    """
    if not urls:
        typed = [f"NULL::{kind} AS {name}" for name, kind in columns.items()]
        return f"SELECT {', '.join([*typed, 'NULL::VARCHAR AS well'])} WHERE false"
    named, files = ", ".join(columns), "[" + ", ".join(map(quote, urls)) + "]"
    union = ", union_by_name = true" if may_lack else ""
    if "/well=" in f"/{root}/":
        # A run below a folder named well=… would give every object that well; the last such folder counts.
        well = "url_decode(regexp_extract(filename, '/well=([^/]*)/[^/]*$', 1)) AS well"
        source = f"read_parquet({files}, filename = true, hive_partitioning = false{union})"
    else:
        well = "well"
        source = f"read_parquet({files}, hive_partitioning = true, hive_types = {{'well': VARCHAR}}{union})"
    if may_lack:
        # A row that is never there gives the columns their types.
        nulls = ", ".join(f"NULL::{columns[name]} AS {name}" for name in may_lack)
        source = f"(SELECT * FROM {source} UNION ALL BY NAME SELECT {nulls} WHERE false)"
    return f"SELECT {named}, {well} FROM {source}"


def _filled(columns: Mapping[str, str], listed: DerivedListing, urls: Sequence[str]) -> str:
    """These columns of derived results, null where their files do not have them."""
    if listed.results.record.kind == "embeddings":
        return _read(urls, columns, root=listed.results.files.root)
    stored = set(listed.results.record.schema.names)
    present = {name: kind for name, kind in columns.items() if name in stored}
    named = [name if name in stored else f"NULL::{kind} AS {name}" for name, kind in columns.items()]
    return f"SELECT {', '.join(named)}, well FROM ({_read(urls, present, root=listed.results.files.root)})"


def _escaped_url(url: str, name: str = "") -> str:
    return escape_glob(f"{url}/{name}" if name else url)


def _derived_columns(kind: DerivedKind) -> dict[str, str]:
    if kind == "predictions":
        return _typed(RANKED_PREDICTIONS_SCHEMA)
    return {"slide_id": "VARCHAR", "object_id": "INTEGER", "embedding": "FLOAT[]"}


def _typed(schema: pa.Schema) -> dict[str, str]:
    return {field.name: _DUCKDB_TYPES[field.type] for field in schema}


_DUCKDB_TYPES = {
    pa.string(): "VARCHAR",
    pa.float64(): "DOUBLE",
    pa.float32(): "FLOAT",
    pa.int32(): "INTEGER",
    pa.uint8(): "UTINYINT",
    pa.bool_(): "BOOLEAN",
    pa.list_(pa.string()): "VARCHAR[]",
    pa.list_(pa.float32()): "FLOAT[]",
}
