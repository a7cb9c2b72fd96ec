"""Discovery of slides in an object store, by one listing and a few kB of each slide."""

from __future__ import annotations

import glob
import itertools
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import PurePosixPath

from fossilray.core.config import AccessConfig
from fossilray.core.errors import (
    CatalogError,
    SlideError,
    SourceAccessDenied,
    SourceUnreachable,
)
from fossilray.core.name_pattern import NamePattern
from fossilray.core.parallel import map_in_chunks
from fossilray.core.records import CatalogRow, RejectedFile
from fossilray.core.site_names import parse_name, well_of_folders
from fossilray.core.slide_names import SLIDE_SUFFIXES, slide_id_for
from fossilray.core.user_table import MAX_BYTES
from fossilray.slides.catalog.census import Census, is_own_folder
from fossilray.slides.catalog.fields import looks_like_a_field, names_images
from fossilray.slides.catalog.remote_fields import choose_remote_fields, remote_sidecar_mpp
from fossilray.slides.catalog.remote_globs import matches_url_glob, root_of_url_glob
from fossilray.slides.catalog.series import catalog_of, first_of_series
from fossilray.slides.catalog.sites import check_search_time
from fossilray.slides.catalog.table import CATALOG_SUFFIXES, Catalog, read_remote_catalog
from fossilray.slides.doubts.before import check_metadata
from fossilray.slides.file_kinds import FIELD_VENDOR
from fossilray.slides.mirax.companions import file_missing_message
from fossilray.slides.mirax.names import is_slidedat, match_name, name_key
from fossilray.slides.remote.dicom_files import read_all_series
from fossilray.slides.remote.metadata import SlideMetadata, read_metadata
from fossilray.slides.remote.slide_files import (
    SlideFiles,
    check_single,
    folder_of,
    is_mirax,
    list_slide_files,
    local_name,
    mirax_bundle,
)
from fossilray.slides.remote.source import RemoteFile, SlideSource, open_source
from fossilray.store.files.base import is_remote

METADATA_THREADS = 32


def find_remote_slides(target: str, access: AccessConfig, pattern: NamePattern | None = None) -> Catalog:
    """Return the slides of a folder, a glob, one slide or a catalog in an object store.

    Listing takes one request per 1,000 files; the metadata of a slide takes one or a few. A slide that the store
    denies access to becomes a row without metadata, and is reported when it is processed.

    Raises:
        CatalogError: there is nothing at `target`, or the catalog is not one, or the store is unreachable.
    """
    try:
        source = open_source(target, access)
        return _find(source, target, access, pattern)
    except SourceUnreachable as error:
        raise CatalogError(str(error)) from None


def is_remote_slide(url: str, access: AccessConfig) -> bool:
    """Return whether there is a file at a URL; False where the store is unreachable."""
    if not is_remote(url):
        return False
    try:
        return _file_at(open_source(url, access), url) is not None
    except (SlideError, ValueError):
        return False


@dataclass(frozen=True, slots=True)
class _Parts:
    """Files directly in one folder, in compact form: an archive has millions."""

    names: tuple[str, ...]
    sizes: array[int]

    def files(self, folder: str) -> dict[str, RemoteFile]:
        return {
            name: RemoteFile(f"{folder}/{name}", size, "")
            for name, size in zip(self.names, self.sizes, strict=True)
        }


@dataclass
class _Listing:
    """Result of one listing: files that look like slides, and the files of each folder."""

    slides: list[RemoteFile] = field(default_factory=list)
    folders: dict[str, _Parts] = field(default_factory=dict)

    def folders_of(self, url: str) -> list[str]:
        """Return the folders that may be that of a MIRAX slide: the one of its name, else those in another case."""
        folder = folder_of(url)
        return [folder] if folder in self.folders else self._by_key.get(_folder_key(folder), [folder])

    def names_in(self, folder: str) -> tuple[str, ...]:
        """Return the names of the files directly in a folder."""
        return self.folders[folder].names if folder in self.folders else ()

    @cached_property
    def _by_key(self) -> dict[tuple[str, str], list[str]]:
        """Folders by `_folder_key`; used once the listing is complete."""
        by_key: dict[tuple[str, str], list[str]] = {}
        for folder in self.folders:
            by_key.setdefault(_folder_key(folder), []).append(folder)
        return by_key


def _find(source: SlideSource, target: str, access: AccessConfig, pattern: NamePattern | None) -> Catalog:
    bucket, _, key = target.partition("://")[2].partition("/")
    if not bucket:
        raise CatalogError(f"{target} names no bucket; name s3://bucket/folder")
    root = target.rstrip("/")
    file = _file_at(source, root) if key.strip("/") and not target.endswith("/") else None
    if file is not None and root.lower().endswith(CATALOG_SUFFIXES):
        if file.bytes > MAX_BYTES:
            raise CatalogError(f"{target} has {file.bytes / 1e9:.1f} GB; a catalog of millions has less")
        return read_remote_catalog(
            root, source.read(file), exists=lambda slide: is_remote_slide(slide, access)
        )
    if file is not None:
        above = root.rpartition("/")[0]
        return _catalog(source, above, [file], None, pattern)
    if glob.has_magic(key):
        above = root_of_url_glob(root)
        listing = _survey(source.walk(above))
        parts = tuple(root[len(above) + 1 :].split("/"))
        census = Census()
        matching = [
            file
            for folder, packed in listing.folders.items()
            for file in _sort(
                source,
                {
                    name: file
                    for name, file in packed.files(folder).items()
                    if matches_url_glob(tuple(file.url[len(above) + 1 :].split("/")), parts)
                },
                Census() if any(map(is_slidedat, packed.names)) else census,
            )
        ]
        if not names_images(root):
            matching, passed_over = choose_remote_fields(source, matching, listing.names_in)
            census.pass_over(passed_over)
        return _catalog(source, above, matching, listing, pattern, census=census)
    listing = _survey(source.walk(root))
    if not listing.folders:
        raise CatalogError(f"there is nothing at {target}; name a folder, a glob, one slide or a catalog")
    slides, orphans = _without_companions(listing, root)
    refused = [
        RejectedFile(_slide_id(folder, root), folder, file_missing_message(folder.rpartition("/")[2]))
        for folder in orphans
    ]
    census = Census()
    slides += _sort_others(source, listing, root, orphans, census)
    slides, passed_over = choose_remote_fields(source, slides, listing.names_in)
    census.pass_over(passed_over)
    return _catalog(source, root, slides, listing, pattern, census=census, refused=refused)


def _folder_key(folder: str) -> tuple[str, str]:
    above, _, name = folder.rpartition("/")
    return above, name_key(name)


def _file_at(source: SlideSource, url: str) -> RemoteFile | None:
    try:
        return source.file(url)
    except FileNotFoundError:
        return None


def _survey(files: Iterable[RemoteFile]) -> _Listing:
    listing = _Listing()
    # Most slides have files of the same names.
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    for folder, group in itertools.groupby(files, key=lambda file: file.url.rpartition("/")[0]):
        in_folder = list(group)
        listing.slides += [file for file in in_folder if _looks_like_a_slide(file.url)]
        names = tuple(file.url.rpartition("/")[2] for file in in_folder)
        before = listing.folders.get(folder, _Parts((), array("q")))
        names = known.setdefault(before.names + names, before.names + names)
        listing.folders[folder] = _Parts(names, before.sizes + array("q", (file.bytes for file in in_folder)))
    return listing


def _without_companions(listing: _Listing, root: str) -> tuple[list[RemoteFile], list[str]]:
    """Return the slides that are not inside another slide's folder, and the MIRAX folders without a .mrxs file.

    The result is the same as for the same files on a disk.
    """
    companions = {
        folder for slide in listing.slides if is_mirax(slide.url) for folder in listing.folders_of(slide.url)
    }
    orphans = {
        folder
        for folder, parts in listing.folders.items()
        if any(map(is_slidedat, parts.names)) and folder != root and folder not in companions
    }
    slides = []
    for slide in listing.slides:
        above = list(_folders_above(slide.url, root))
        # Slides beside an orphaned Slidedat.ini are slides; folders below it are not searched.
        if companions.isdisjoint(above) and orphans.isdisjoint(above[1:]):
            slides.append(slide)
    closed = companions | orphans
    return slides, sorted(folder for folder in orphans if closed.isdisjoint(_folders_above(folder, root)))


def _sort_others(
    source: SlideSource, listing: _Listing, root: str, orphans: Sequence[str], census: Census
) -> list[RemoteFile]:
    """Return the images and the slides without a known ending; the other files are counted.

    Files in the folders of MIRAX slides and in those that fossilray wrote are neither.
    """
    closed = set(orphans)
    closed.update(
        folder for slide in listing.slides if is_mirax(slide.url) for folder in listing.folders_of(slide.url)
    )
    folder_names: dict[str, list[str]] = {}
    for folder in listing.folders:
        for above in (folder, *_folders_above(folder, root)):
            folder_names.setdefault(above.rpartition("/")[0], []).append(above.rpartition("/")[2])
    closed.update(
        folder
        for folder, names in folder_names.items()
        if is_own_folder({*names, *(listing.folders[folder].names if folder in listing.folders else ())})
    )
    slides = []
    for folder, packed in listing.folders.items():
        if closed.isdisjoint((folder, *_folders_above(folder, root))):
            sorted_out = _sort(source, packed.files(folder), census)
            slides += [file for file in sorted_out if not _looks_like_a_slide(file.url)]
    return slides


def _sort(source: SlideSource, files: Mapping[str, RemoteFile], census: Census) -> list[RemoteFile]:
    """Return the slides among the files of one folder; the others are counted."""
    slides = census.sort(
        files,
        is_slide=lambda name: looks_like_a_field(name) or _looks_like_a_slide(name),
        read=lambda name: partial(_read_range, source, files[name]),
    )
    return [files[name] for name in slides]


def _read_range(source: SlideSource, file: RemoteFile, start: int, stop: int) -> bytes:
    try:
        return source.read(file, start, stop)
    except (FileNotFoundError, SourceAccessDenied):
        return b""


def _folders_above(url: str, root: str) -> Iterator[str]:
    """Yield the URLs of the folders above a file or folder, innermost first, without the root."""
    folder = url.rpartition("/")[0]
    while len(folder) > len(root):
        yield folder
        folder = folder.rpartition("/")[0]


def _catalog(
    source: SlideSource,
    root: str,
    slides: Sequence[RemoteFile],
    listing: _Listing | None,
    pattern: NamePattern | None,
    *,
    census: Census | None = None,
    refused: Sequence[RejectedFile] = (),
) -> Catalog:
    check_search_time(pattern, (slide.url for slide in slides))
    series = read_all_series(source, slides)
    slides, dicom_files = first_of_series(
        slides,
        [series.get(slide.url) for slide in slides],
        folder=lambda slide: slide.url.rpartition("/")[0],
    )
    described = list(
        map_in_chunks(
            lambda slide: _describe(source, root, slide, listing, pattern), slides, threads=METADATA_THREADS
        )
    )
    catalog = catalog_of([*described, *refused], lambda url: PurePosixPath(_relative(url, root)))
    if census is not None:
        catalog = replace(catalog, notes=census.notes(catalog, dicom_files=dicom_files))
    return catalog


def _describe(
    source: SlideSource, root: str, slide: RemoteFile, listing: _Listing | None, pattern: NamePattern | None
) -> CatalogRow | RejectedFile:
    slide_id = _slide_id(slide.url, root)
    name = slide.url.rpartition("/")[2]
    try:
        metadata = read_metadata(source, _bundle(source, slide, name, listing), shown=name)
        is_field = metadata.vendor == FIELD_VENDOR
        sidecar_mpp = (
            remote_sidecar_mpp(source, slide.url, listing.names_in if listing else None) if is_field else None
        )
    except SourceAccessDenied:
        # It is reported when the slide is processed; access may have been granted by then.
        metadata, sidecar_mpp = SlideMetadata(), None
    except SourceUnreachable:
        raise
    except SlideError as error:
        return RejectedFile(slide_id, slide.url, str(error), type(error).__name__)
    row = _row(slide_id, slide.url, root, metadata, pattern)
    return row if sidecar_mpp is None else replace(row, mpp=sidecar_mpp, mpp_from="sidecar")


def _bundle(source: SlideSource, slide: RemoteFile, name: str, listing: _Listing | None) -> SlideFiles:
    if not is_mirax(slide.url):
        check_single(name, slide.bytes)
        main_file = local_name(slide.url)
        return SlideFiles(main_file, {main_file: slide})
    if listing is None:
        return list_slide_files(source, slide.url, shown=name)
    fitting = {folder.rpartition("/")[2]: folder for folder in listing.folders_of(slide.url)}
    folder = fitting[match_name(name, folder_of(name), fitting) or folder_of(name)]
    packed = listing.folders.get(folder)
    parts = packed.files(folder) if packed else {}
    return mirax_bundle(source, slide, parts, shown=name)


def _row(
    slide_id: str, url: str, root: str, metadata: SlideMetadata, pattern: NamePattern | None
) -> CatalogRow:
    site = parse_name(PurePosixPath(url).stem, pattern)
    finest = metadata.levels[0] if metadata.levels else None
    bounds = metadata.bounds
    folders = [folder.rpartition("/")[2] for folder in (*_folders_above(url, root), root)]
    doubts = None
    if finest is not None:
        info = metadata.info(url, mpp=metadata.mpp or 1.0, mpp_from="slide")
        doubts = check_metadata(info, mpp=metadata.mpp, tiff=metadata.tiff)
    return CatalogRow(
        slide_id=slide_id,
        path=url,
        vendor=metadata.vendor,
        width=finest.width if finest else None,
        height=finest.height if finest else None,
        mpp=metadata.mpp,
        levels=len(metadata.levels) or None,
        bounds_x=bounds.x_min if bounds else None,
        bounds_y=bounds.y_min if bounds else None,
        bounds_width=bounds.width if bounds else None,
        bounds_height=bounds.height if bounds else None,
        well=site.well or well_of_folders(folders, pattern),
        measured_depth_m=site.measured_depth_m,
        top_depth_m=site.top_depth_m,
        base_depth_m=site.base_depth_m,
        depth_unit=site.depth_unit,
        sample_type=site.sample_type,
        mpp_from=None if metadata.mpp is None else "slide",
        doubts=doubts,
    )


def _slide_id(url: str, root: str) -> str:
    """Return the slide_id that the same file has below a folder on a disk."""
    return slide_id_for(PurePosixPath(_relative(url, root)))


def _relative(url: str, root: str) -> str:
    parts = url[len(root) + 1 :].split("/")
    # Paths would drop these names; the prefix keeps them, and no key contains a zero byte.
    return "/".join(f"\0{part}" if part in ("", ".", "..") else part for part in parts)


def _looks_like_a_slide(url: str) -> bool:
    return PurePosixPath(url).suffix.lower() in SLIDE_SUFFIXES
