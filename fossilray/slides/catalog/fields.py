"""Choice of the images in a folder that are fields of view, not pictures of its slides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from fossilray.core.errors import MissingResolution
from fossilray.core.records import CatalogRow
from fossilray.slides.catalog.table import Catalog
from fossilray.slides.fields.image_handle import is_field_file
from fossilray.slides.fields.image_header import TIFF_SUFFIXES
from fossilray.slides.fields.sidecar import FOLDER_SIDECAR, sidecar_mpp
from fossilray.slides.file_kinds import FIELD_SUFFIXES, FIELD_VENDOR

_PAGE = "docs/guide/fields.md"


def looks_like_a_field(name: str) -> bool:
    """Return whether a file has the name of an image that may be a field of view; of a TIFF its content decides.

    Names that begin with a dot are those of other programs' notes, such as of a Mac.
    """
    plain = PurePosixPath(name)
    return plain.suffix.lower() in FIELD_SUFFIXES and not plain.name.startswith(".")


def names_images(pattern: str) -> bool:
    """Return whether a glob names images by their ending, as `field*.jpg` does and `**/*` does not."""
    return PurePosixPath(pattern).suffix.lower() in {*FIELD_SUFFIXES, *TIFF_SUFFIXES}


def choose_fields(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the files of a folder without the images that are no fields of view, and these.

    Beside slides, only images with a sidecar are taken: the others may be thumbnails and labels of the slides.
    """
    images = {file for file in files if _is_image(file)}
    if len(images) == len(files):
        return list(files), []
    passed_over = {image for image in images if not _has_sidecar(image)}
    return [file for file in files if file not in passed_over], sorted(passed_over)


def describe_missing_mpp(rows: Iterable[CatalogRow]) -> str | None:
    """Return a sentence on fields of view without um per px; None if there are none."""
    missing = sum(row.mpp is None and row.vendor == FIELD_VENDOR for row in rows)
    if not missing:
        return None
    fields = "field of view has" if missing == 1 else "fields of view have"
    return (
        f"{missing:,} {fields} no um per px: give --mpp, write {FOLDER_SIDECAR} beside the images, or fill the column "
        f"mpp of the catalog; see {_PAGE}"
    )


def fill_in_mpp(catalog: Catalog, mpp: float | None) -> Catalog:
    """Return the catalog with `mpp` for slides and fields of view that state no um per px; None: as it is."""
    if mpp is None:
        return catalog
    rows = [_with_mpp(row, mpp) if row.mpp is None and not _is_unequal(row) else row for row in catalog.rows]
    return replace(catalog, rows=rows)


def _with_mpp(row: CatalogRow, mpp: float) -> CatalogRow:
    """Return a row with `mpp`, less the doubt of a value that it states and that is not used, as when processed."""
    doubts = tuple(doubt for doubt in row.doubts or () if doubt.code != "mpp-implausible")
    return replace(row, mpp=mpp, mpp_from="config", doubts=row.doubts and doubts)


def _is_unequal(row: CatalogRow) -> bool:
    """Return whether a slide has no um per px because it states two."""
    return any(doubt.code == "mpp-unequal" for doubt in row.doubts or ())


def _has_sidecar(image: Path) -> bool:
    """Return whether a sidecar states the um per px of an image, or is meant to and cannot be used."""
    try:
        return sidecar_mpp(image) is not None
    except (MissingResolution, OSError):
        return True  # the reason is shown with the image


def _is_image(file: Path) -> bool:
    if file.suffix.lower() not in TIFF_SUFFIXES:
        return looks_like_a_field(file.name)
    try:
        # A pipe would be waited for without end.
        return file.is_file() and is_field_file(file)
    except OSError:
        return False
