"""Discovery of slides on a disk (an object store is delegated to `find_remote`), with the metadata of each."""

from __future__ import annotations

import errno
import glob
import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from stat import S_ISDIR, S_ISREG

from fossilray.core.config import AccessConfig
from fossilray.core.errors import (
    CatalogError,
    MissingResolution,
    SlideError,
    SourcesOut,
    SourceUnreachable,
)
from fossilray.core.exception_summary import exception_location, exception_message
from fossilray.core.name_pattern import NamePattern
from fossilray.core.os_errors import NOT_FOUND, UNREACHABLE
from fossilray.core.records import CatalogRow, RejectedFile
from fossilray.core.site_names import parse_name, well_of_folders
from fossilray.core.slide_names import slide_id_for
from fossilray.slides.access import as_slide_error
from fossilray.slides.catalog.census import Census
from fossilray.slides.catalog.copies import mark_copies
from fossilray.slides.catalog.fields import choose_fields, names_images
from fossilray.slides.catalog.find_remote import find_remote_slides, is_remote_slide
from fossilray.slides.catalog.series import catalog_of, first_of_series
from fossilray.slides.catalog.sites import check_pattern_matches, check_search_time, compile_pattern
from fossilray.slides.catalog.table import CATALOG_SUFFIXES, Catalog, read_catalog_file
from fossilray.slides.catalog.walk import holds_slidedat, series_of, sort_matches, walk_folder
from fossilray.slides.catalog.wells import merge_wells
from fossilray.slides.doubts.before import check_slide
from fossilray.slides.identity import scan_id_of
from fossilray.slides.mirax.companions import file_missing_message
from fossilray.slides.neighbours import can_be_read
from fossilray.slides.planes import count_planes
from fossilray.slides.slide import open_slide
from fossilray.store.files.base import is_remote

_OPENING_THREADS = 8
_MAX_SAMPLES = 8


def find_slides(
    target: str,
    *,
    access: AccessConfig | None = None,
    name_pattern: str | None = None,
    unique_scans: bool = False,
) -> Catalog:
    """Return the slides of a folder (and its subfolders), a glob, a single file, or a catalog (CATALOG_SUFFIXES).

    Files are opened to read their metadata; in an object store (s3://bucket/folder) a few kB of each are read. The
    rows of a catalog are not checked. access: how the object store is reached. name_pattern: for wells and depths
    in names, see `slides.name_pattern`. unique_scans: leave out all but one of the slides that are the same scan.

    Raises:
        CatalogError: there is nothing at `target`, or the catalog is not one, or the store is unreachable.
    """
    catalog = _find(target, access=access, name_pattern=name_pattern)
    return mark_copies(merge_wells(catalog), skip=unique_scans)


def _find(target: str, *, access: AccessConfig | None, name_pattern: str | None) -> Catalog:
    pattern = compile_pattern(name_pattern)
    if is_remote(target):
        remote = find_remote_slides(target, access or AccessConfig(), pattern)
        return _checked(remote, pattern, name_pattern)
    path = Path(target.removeprefix("file://"))
    unlisted: list[tuple[Path, OSError]] = []
    census, is_unmatched = Census(), False
    mode = _mode(path)
    if S_ISREG(mode) and path.suffix.lower() in CATALOG_SUFFIXES:
        return read_catalog_file(path, exists=lambda slide: _is_there(slide, access or AccessConfig()))
    if S_ISREG(mode):
        root, files = path.parent, [path]
    elif S_ISDIR(mode):
        root = path
        files, passed_over = choose_fields(sorted(walk_folder(path, unlisted, census)))
        census.pass_over(file.name for file in passed_over)
        if unlisted and unlisted[0][0] == path:
            raise _refused_whole(path, unlisted[0][1])
    elif glob.has_magic(target):
        root = _root_of_glob(path)
        matches = glob.glob(str(path), recursive=True)  # noqa: PTH207  Path.glob takes no absolute pattern
        is_unmatched = not matches
        files = sorted(sort_matches({Path(match) for match in matches}, census))
        if not names_images(target):
            files, passed_over = choose_fields(files)
            census.pass_over(file.name for file in passed_over)
    else:
        raise CatalogError(f"there is nothing at {target}; name a folder, a glob, one slide or a catalog")
    check_search_time(pattern, (Path(os.path.abspath(file)).as_posix() for file in files))  # noqa: PTH100
    with ThreadPoolExecutor(_OPENING_THREADS) as threads:
        series = list(threads.map(series_of, files))
        files, dicom_files = first_of_series(files, series, folder=lambda file: str(file.parent))
        described = list(threads.map(lambda file: _describe(root, file, pattern), files))
    # A disk that failed once may respond the second time.
    described = [
        _describe(root, file, pattern)
        if isinstance(entry, RejectedFile) and entry.error == SourceUnreachable.__name__
        else entry
        for file, entry in zip(files, described, strict=True)
    ]
    described += [_reject(root, folder, error) for folder, error in unlisted]
    _check_still_there(target, described)
    catalog = catalog_of(described, lambda path: PurePosixPath(path).relative_to(os.path.abspath(root)))  # noqa: PTH100
    if not S_ISREG(mode):
        notes = census.notes(catalog, dicom_files=dicom_files)
        catalog = replace(catalog, notes=("no name matches",) if is_unmatched else notes)
    return _checked(catalog, pattern, name_pattern)


def _is_there(slide: str, access: AccessConfig) -> bool:
    """Return whether there is a file at a path or URL of a catalog; False where it cannot be known."""
    if is_remote(slide):
        return is_remote_slide(slide, access)
    try:
        return Path(slide).exists()
    except (OSError, ValueError):
        return False


def _checked(catalog: Catalog, pattern: NamePattern | None, text: str | None) -> Catalog:
    if pattern is None or not catalog.from_names:
        return catalog
    matched = any(pattern.find(PurePosixPath(row.path).stem) for row in catalog.rows)
    return check_pattern_matches(catalog, text, matched=matched)


def _mode(path: Path) -> int:
    """Return the file mode of a path; 0 if nothing is there.

    Raises:
        SourcesOut: the disk or the share is unreachable.
        CatalogError: the system denies access.
    """
    try:
        return path.stat().st_mode
    except ValueError:
        return 0
    except OSError as error:
        if error.errno in NOT_FOUND:
            return 0
        # A pattern may be longer than a name can be.
        if error.errno == errno.ENAMETOOLONG and glob.has_magic(str(path)):
            return 0
        raise _refused_whole(path, error) from None


def _refused_whole(path: Path, error: OSError) -> CatalogError | SourcesOut:
    """Return the error for a folder or a catalog that cannot be read at all."""
    if error.errno in UNREACHABLE:
        return SourcesOut(
            f"{path} cannot be read: {error.strerror}; check that it is mounted and reachable, and start the same "
            "command again"
        )
    return CatalogError(f"{path} cannot be read: {error.strerror}; change its permissions or name another")


def _check_still_there(target: str, described: Sequence[CatalogRow | RejectedFile]) -> None:
    """Check that the share did not become unreachable while it was listed: later slides would look damaged.

    Raises:
        SourcesOut: the slides that were unreachable still are, and so is every slide that could be read before.
    """
    doubtful: list[RejectedFile] = [
        entry
        for entry in described
        if isinstance(entry, RejectedFile) and entry.error in ("SlideMissing", "SourceUnreachable")
    ]
    sound = [row.path for row in described if isinstance(row, CatalogRow)]
    if not doubtful or any(can_be_read(path) for path in random.sample(sound, min(_MAX_SAMPLES, len(sound)))):
        return
    if not sound and (len(doubtful) < len(described) or len(described) == 1):
        return
    raise SourcesOut(
        f"{target}: {doubtful[0].reason}; {len(doubtful):,} of {len(described):,} slides there cannot be read, nor any "
        "other of them now: check that it is mounted and reachable, and start the same command again"
    )


def _root_of_glob(pattern: Path) -> Path:
    """Return the folder that the pattern names before its first wildcard."""
    plain: list[str] = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        plain.append(part)
    return Path(*plain)


def _describe(root: Path, file: Path, pattern: NamePattern | None) -> CatalogRow | RejectedFile:
    relative = file.relative_to(root)
    slide_id = slide_id_for(PurePosixPath(relative))
    # Absolute, so that a run may be resumed from another folder.
    path = os.path.abspath(file)  # noqa: PTH100  Path.resolve would follow links
    if not _is_utf8(path):
        printable = os.fsencode(path).decode("utf-8", errors="replace")
        return RejectedFile(slide_id, printable, f"{printable} is not named in UTF-8; rename it")
    try:
        mode = file.stat().st_mode
        if not S_ISREG(mode):  # a pipe would be waited for without end
            return RejectedFile(slide_id, path, _why_no_file(file, mode))
        return _read_metadata(slide_id, path, root, pattern)
    except SlideError as error:
        return RejectedFile(slide_id, path, str(error), type(error).__name__)
    except OSError as error:
        return _reject(root, file, error)
    except Exception as error:  # noqa: BLE001  whatever a library raises over one file, the others are listed
        reason = f"{type(error).__name__} at {exception_location(error)}: {exception_message(error)}"
        return RejectedFile(slide_id, path, reason, type(error).__name__)


def _why_no_file(path: Path, mode: int) -> str:
    if S_ISDIR(mode) and holds_slidedat(path):
        return file_missing_message(path.name)
    kind = "a folder" if S_ISDIR(mode) else "a pipe, a socket or a device"
    return f"{path} has the name of a slide and is {kind}; rename it"


def _reject(root: Path, file: Path, error: OSError) -> RejectedFile:
    """Return the rejection of a file or a folder that the system cannot read."""
    path = os.fsencode(os.path.abspath(file)).decode("utf-8", errors="replace")  # noqa: PTH100
    try:
        relative = PurePosixPath(file.relative_to(root))
    except ValueError:
        relative = PurePosixPath(file.name)
    fault = as_slide_error(error, path)
    kind = type(fault).__name__ if fault is not None else type(error).__name__
    return RejectedFile(slide_id_for(relative), path, str(fault or error), kind)


def _read_metadata(slide_id: str, path: str, root: Path, pattern: NamePattern | None) -> CatalogRow:
    mpp: float | None
    try:
        with open_slide(Path(path)) as slide:
            info, mpp = slide.info, slide.info.mpp
            doubts = check_slide(slide, mpp=mpp)
            planes = count_planes(info.properties, slide.tiff_format)
    except MissingResolution:
        # The user states it in the catalog or in the configuration.
        with open_slide(Path(path), mpp_override=1.0) as slide:
            info, mpp = slide.info, None
            doubts = check_slide(slide, mpp=None)
            planes = count_planes(info.properties, slide.tiff_format)
    site = parse_name(Path(path).stem, pattern)
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
        well=site.well or well_of_folders(_folders(path, root), pattern),
        measured_depth_m=site.measured_depth_m,
        top_depth_m=site.top_depth_m,
        base_depth_m=site.base_depth_m,
        depth_unit=site.depth_unit,
        sample_type=site.sample_type,
        mpp_from=None if mpp is None else info.mpp_from,
        planes=planes,
        doubts=doubts,
        scan_id=scan_id_of(info),
    )


def _folders(path: str, root: Path) -> Iterator[str]:
    """Yield the names of the folders from the slide's own up to the root, inclusive."""
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
