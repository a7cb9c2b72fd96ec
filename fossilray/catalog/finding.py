"""Which slides there are: found on a disk or in an object store, and what is known of each."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from fossilray.catalog.remote import find_remote_slides
from fossilray.catalog.table import CATALOG_SUFFIXES, Catalog, read_catalog_file
from fossilray.config import AccessConfig
from fossilray.errors import CatalogError, MissingResolution, SlideError
from fossilray.mirax_companions import without_file
from fossilray.records import CatalogRow, RefusedFile
from fossilray.slide import open_slide
from fossilray.slide_names import SLIDE_SUFFIXES, parse_name, slide_id_for, well_of_folders
from fossilray.sources.slide_sources import is_remote

_OPENING_THREADS = 8


def find_slides(target: str, *, access: AccessConfig | None = None) -> Catalog:
    """The slides of a folder (with all below it), a glob, a single file, or a catalog (.csv, .parquet).

    Files are opened to learn their facts; in an object store (s3://bucket/folder) a few kB of each are read. The
    rows of a catalog are taken at its word. access: how the object store is reached.

    Raises:
        CatalogError: there is nothing at `target`, or the catalog is not one, or the store does not answer.
    """
    if is_remote(target):
        return find_remote_slides(target, access or AccessConfig())
    path = Path(target.removeprefix("file://"))
    if path.is_file() and path.suffix.lower() in CATALOG_SUFFIXES:
        return Catalog(read_catalog_file(path), [])
    if path.is_file():
        root, files = path.parent, [path]
    elif path.is_dir():
        root, files = path, sorted(_walk(path))
    elif glob.has_magic(target):
        root = _root_of_glob(path)
        matches = glob.glob(str(path), recursive=True)  # noqa: PTH207  Path.glob takes no absolute pattern
        files = sorted({Path(match) for match in matches if _looks_like_a_slide(Path(match))})
    else:
        raise CatalogError(f"there is nothing at {target}; name a folder, a glob, one slide or a catalog")
    with ThreadPoolExecutor(_OPENING_THREADS) as threads:
        found = list(threads.map(lambda file: _describe(root, file), files))
    return Catalog(
        sorted((one for one in found if isinstance(one, CatalogRow)), key=lambda row: row.slide_id),
        sorted((one for one in found if isinstance(one, RefusedFile)), key=lambda file: file.slide_id),
    )


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
        return RefusedFile(slide_id, path, without_file(file.name))
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
        well=well or well_of_folders(_folders(path, root)),
        measured_depth_m=depth,
    )


def _folders(path: str, root: Path) -> Iterator[str]:
    """Names of the folders from the slide up to the root."""
    top = Path(os.path.abspath(root))  # noqa: PTH100
    for folder in Path(path).parents:
        yield folder.name
        if folder == top:
            return


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
