"""Which slides there are: found on disk, listed in a table that people may edit, read back with care."""

from __future__ import annotations

import csv
import glob
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from fossilray.errors import CatalogError, MissingResolution, SlideError
from fossilray.records import CATALOG_SCHEMA, CatalogRow, RefusedFile
from fossilray.slide import open_slide
from fossilray.slide_names import SLIDE_SUFFIXES, parse_name, slide_id_for
from fossilray.store.layout import check_slide_id, check_well
from fossilray.tables import from_spreadsheet, spreadsheet_safe

__all__ = [
    "Catalog",
    "find_slides",
    "parse_name",
    "read_catalog_file",
    "slide_id_for",
    "write_catalog",
    "write_refused",
]

_CATALOG_SUFFIXES = (".csv", ".parquet")
_OPENING_THREADS = 8
_REQUIRED = ("slide_id", "path")


@dataclass(frozen=True)
class Catalog:
    """Slides that can be opened, and files that look like slides and are not; both by slide_id."""

    rows: list[CatalogRow]
    refused: list[RefusedFile]


def find_slides(target: str) -> Catalog:
    """The slides of a folder (with all below it), a glob, a single file, or a catalog (.csv, .parquet).

    Files are opened to learn their facts; the rows of a catalog are taken at its word.

    Raises:
        CatalogError: there is nothing at `target`, or the catalog is not one.
    """
    if "://" in target:
        raise CatalogError(
            f"{target} is not on this machine's disks; copy the slides to a local folder first"
        )
    path = Path(target)
    if path.is_file() and path.suffix.lower() in _CATALOG_SUFFIXES:
        return Catalog(read_catalog_file(path), [])
    if path.is_file():
        root, files = path.parent, [path]
    elif path.is_dir():
        root, files = path, sorted(_walk(path))
    elif glob.has_magic(target):
        root = _root_of_glob(path)
        matches = glob.glob(target, recursive=True)  # noqa: PTH207  Path.glob takes no absolute pattern
        files = sorted({Path(match) for match in matches if _looks_like_a_slide(Path(match))})
    else:
        raise CatalogError(f"there is nothing at {target}; name a folder, a glob, one slide or a catalog")
    with ThreadPoolExecutor(_OPENING_THREADS) as threads:
        found = list(threads.map(lambda file: _describe(root, file), files))
    return Catalog(
        sorted((one for one in found if isinstance(one, CatalogRow)), key=lambda row: row.slide_id),
        sorted((one for one in found if isinstance(one, RefusedFile)), key=lambda file: file.slide_id),
    )


def write_catalog(catalog: Catalog, out: Path) -> None:
    """Write the rows as CSV, or as Parquet where `out` ends in .parquet.

    Raises:
        CatalogError: the file cannot be written.
    """
    if out.suffix.lower() == ".parquet":
        columns = (
            zip(*map(astuple, catalog.rows), strict=True) if catalog.rows else ([] for _ in CATALOG_SCHEMA)
        )
        arrays = [pa.array(list(c), field.type) for c, field in zip(columns, CATALOG_SCHEMA, strict=True)]
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_arrays(arrays, schema=CATALOG_SCHEMA), sink)
        content = sink.getvalue()
    else:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(CATALOG_SCHEMA.names)
        writer.writerows(_cells(row) for row in catalog.rows)
        content = text.getvalue().encode()
    _write(out, content)


def write_refused(catalog: Catalog, out: Path) -> None:
    """Write the files that look like slides and are not, as CSV: slide_id, path, reason.

    Raises:
        CatalogError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(field.name for field in fields(RefusedFile))
    writer.writerows(_cells(refused) for refused in catalog.refused)
    _write(out, text.getvalue().encode())


def _cells(row: CatalogRow | RefusedFile) -> list[object]:
    return [spreadsheet_safe(value) if isinstance(value, str) else value for value in astuple(row)]


def read_catalog_file(path: Path) -> list[CatalogRow]:
    """The rows of a catalog; relative paths count from the catalog's own folder.

    Semicolons between columns and decimal commas, as spreadsheets of many countries write them, are read too.

    Raises:
        CatalogError: a column is missing or unknown, a value is no number, a slide is there twice.
    """
    try:
        cells = _parquet_cells(path) if path.suffix.lower() == ".parquet" else _csv_cells(path)
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowInvalid) as error:
        reason = " ".join(str(error).split())
        raise CatalogError(
            f"cannot read the catalog {path}: {reason}; `fossilray catalog` writes a new one"
        ) from None
    rows: list[CatalogRow] = []
    seen: dict[str, int] = {}
    for number, cell in cells:
        row = _to_row(cell, path, number)
        if row.slide_id in seen:
            raise CatalogError(
                f"{path}, line {number}: slide_id {row.slide_id} is in line {seen[row.slide_id]} already; give "
                "each slide an id of its own"
            )
        seen[row.slide_id] = number
        rows.append(row)
    return rows


def _walk(folder: Path) -> Iterator[Path]:
    """Files that look like slides, and MIRAX folders without their .mrxs file; links are followed once."""
    visited: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place)
        stat = here.stat()
        if (stat.st_dev, stat.st_ino) in visited:
            folders.clear()
            continue
        visited.add((stat.st_dev, stat.st_ino))
        slides = [here / name for name in names if _looks_like_a_slide(here / name)]
        yield from slides
        companions = {slide.stem for slide in slides if slide.suffix.lower() == ".mrxs"}
        folders[:] = sorted(name for name in folders if name not in companions)
        if "Slidedat.ini" in names and here != folder:
            yield here
            folders.clear()


def _looks_like_a_slide(file: Path) -> bool:
    return file.suffix.lower() in SLIDE_SUFFIXES and file.is_file()


def _root_of_glob(pattern: Path) -> Path:
    """The folder that the pattern names before its first wildcard."""
    plain: list[str] = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        plain.append(part)
    return Path(*plain)


def _describe(root: Path, file: Path) -> CatalogRow | RefusedFile:
    relative = file.relative_to(root)
    slide_id = slide_id_for(PurePosixPath(relative))
    # Absolute, so that a run may be resumed from another folder.
    path = os.path.abspath(file)  # noqa: PTH100  Path.resolve would follow links
    if file.is_dir():
        reason = (
            f"the folder {file.name} is part of a MIRAX slide whose {file.name}.mrxs is missing beside it"
        )
        return RefusedFile(slide_id, path, reason)
    if not _is_utf8(path):
        printable = os.fsencode(path).decode("utf-8", errors="replace")
        return RefusedFile(slide_id, printable, f"{printable} is not named in UTF-8; rename it")
    try:
        return _read_facts(slide_id, path, root)
    except (SlideError, OSError) as error:
        return RefusedFile(slide_id, path, str(error))


def _read_facts(slide_id: str, path: str, root: Path) -> CatalogRow:
    mpp: float | None
    try:
        with open_slide(Path(path)) as slide:
            info, mpp = slide.info, slide.info.mpp
    except MissingResolution:
        # Whoever edits the catalog, or the configuration, will say.
        with open_slide(Path(path), mpp=1.0) as slide:
            info, mpp = slide.info, None
    well, depth = parse_name(Path(path).stem)
    return CatalogRow(
        slide_id=slide_id,
        path=path,
        vendor=info.vendor,
        width=info.width,
        height=info.height,
        mpp=mpp,
        levels=len(info.levels),
        bounds_x=info.bounds.x_min,
        bounds_y=info.bounds.y_min,
        bounds_width=info.bounds.width,
        bounds_height=info.bounds.height,
        well=well or _well_of_folders(path, root),
        measured_depth_m=depth,
    )


def _well_of_folders(path: str, root: Path) -> str | None:
    """The well that the nearest folder from the slide up to the root is named after."""
    top = Path(os.path.abspath(root))  # noqa: PTH100
    for folder in Path(path).parents:
        well, _ = parse_name(folder.name)
        if well or folder == top:
            return well
    return None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _write(out: Path, content: bytes) -> None:
    try:
        out.write_bytes(content)
    except OSError as error:
        raise CatalogError(f"cannot write {out}: {error.strerror}; choose another place with --out") from None


def _csv_cells(path: Path) -> Iterable[tuple[int, Mapping[str, object]]]:
    text = path.read_bytes().decode("utf-8-sig")
    header = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=";" if ";" in header else ",", strict=True)
    names = [name.strip() for name in next(reader, [])]
    _check_columns(names, path)
    cells: list[tuple[int, Mapping[str, object]]] = []
    for values in reader:
        if not any(values):
            continue
        if len(values) != len(names):
            raise CatalogError(
                f"{path}, line {reader.line_num}: {len(values)} values for {len(names)} columns; quote values "
                "that hold the separator"
            )
        cells.append((reader.line_num, dict(zip(names, map(from_spreadsheet, values), strict=True))))
    return cells


def _parquet_cells(path: Path) -> Iterable[tuple[int, Mapping[str, object]]]:
    table = pq.read_table(path)
    _check_columns(table.column_names, path)
    return list(enumerate(table.to_pylist(), start=1))


def _check_columns(names: Sequence[str], path: Path) -> None:
    for required in _REQUIRED:
        if required not in names:
            raise CatalogError(
                f"{path} has no column {required}; it needs slide_id and path, as `fossilray catalog` writes them"
            )
    for name in names:
        if name not in CATALOG_SCHEMA.names or names.count(name) > 1:
            fault = "twice" if name in CATALOG_SCHEMA.names else "which means nothing here"
            raise CatalogError(
                f"{path} has the column {name!r} {fault}; remove it (known: {', '.join(CATALOG_SCHEMA.names)})"
            )


def _to_row(cell: Mapping[str, object], path: Path, line: int) -> CatalogRow:
    values: dict[str, object] = {}
    for field in CATALOG_SCHEMA:
        value = cell.get(field.name)
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            if not field.nullable:
                raise CatalogError(f"{path}, line {line}: {field.name} is empty; fill it or remove the line")
            values[field.name] = None
        elif pa.types.is_string(field.type):
            values[field.name] = str(value)
        else:
            values[field.name] = _number(value, field, path, line)
    slide_id = str(values["slide_id"])
    try:
        check_slide_id(slide_id)
    except CatalogError as error:
        raise CatalogError(f"{path}, line {line}: {error}") from None
    well = values["well"]
    values["well"] = (str(well).strip() or None) if well is not None else None
    try:
        check_well(str(values["well"] or ""))
    except CatalogError as error:
        raise CatalogError(f"{path}, line {line}: {error}") from None
    values["path"] = os.path.abspath(path.parent / str(values["path"]))  # noqa: PTH100
    return CatalogRow(**values)  # type: ignore[arg-type]  # each value was brought to its column's type


def _number(value: object, field: pa.Field, path: Path, line: int) -> int | float:
    whole = pa.types.is_integer(field.type)
    text = str(value).strip()
    try:
        number = float(text if "." in text else text.replace(",", "."))
    except ValueError:
        number = math.nan
    if (
        not math.isfinite(number)
        or (whole and number != int(number))
        or (field.name == "mpp" and number <= 0)
    ):
        kind = "a whole number" if whole else "a number above 0" if field.name == "mpp" else "a number"
        raise CatalogError(
            f"{path}, line {line}: {field.name} is {text!r}, not {kind}; correct it or leave it empty"
        )
    return int(number) if whole else number
