"""Slides of a catalog that are the same scan: marked as doubts, or left out."""

from __future__ import annotations

from dataclasses import replace

from fossilray.core.copies import describe_copies, find_copies
from fossilray.core.records import CatalogRow, Doubt, RejectedFile
from fossilray.slides.catalog.table import Catalog


def mark_copies(catalog: Catalog, *, skip: bool) -> Catalog:
    """Return the catalog with a doubt on each copy and its original, and a note; with `skip`, without the copies.

    Of several slides with one scan_id or one path, the first by slide_id is the original. Copies that are left out
    become rejected files.
    """
    copies = find_copies(catalog.rows)
    if not copies:
        return catalog
    rows = {row.slide_id: row for row in catalog.rows}
    if skip:
        rejected = [
            RejectedFile(
                copy,
                rows[copy].path,
                f"{rows[copy].path} is the same scan as {rows[original].path} ({original}); it is left out because "
                "slides.unique_scans is set",
                "SameScan",
            )
            for copy, original in copies.items()
        ]
        refused = sorted([*catalog.refused, *rejected], key=lambda file: file.slide_id)
        return replace(
            catalog, rows=[row for row in catalog.rows if row.slide_id not in copies], refused=refused
        )
    partners: dict[str, list[str]] = {}
    for copy, original in copies.items():
        partners[copy] = [original]
        partners.setdefault(original, []).append(copy)
    marked = [
        _with_doubt(row, [rows[name] for name in partners[row.slide_id]]) if row.slide_id in partners else row
        for row in catalog.rows
    ]
    return replace(catalog, rows=marked, notes=(*catalog.notes, describe_copies(copies) or ""))


def _with_doubt(row: CatalogRow, partners: list[CatalogRow]) -> CatalogRow:
    first = partners[0]
    more = f" and {len(partners) - 1} more" if len(partners) > 1 else ""
    doubt = Doubt(
        "same-scan",
        float(len(partners)),
        f"{row.slide_id} is the same scan as {first.slide_id}{more} ({first.path}); remove one, or set "
        "slides.unique_scans",
    )
    return replace(row, doubts=(*(row.doubts or ()), doubt))
