"""Choice of the images of a folder in an object store that are fields of view, and their sidecars."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias

from fossilray.core.errors import MissingResolution
from fossilray.slides.catalog.fields import looks_like_a_field
from fossilray.slides.fields.sidecar import MOST_SIDECAR_BYTES, find_mpp
from fossilray.slides.remote.source import RemoteFile, SlideSource

NamesIn: TypeAlias = Callable[[str], Collection[str]]
"""Returns the names of the files directly in a folder, by its URL."""


def choose_remote_fields(
    source: SlideSource, slides: Sequence[RemoteFile], names_in: NamesIn
) -> tuple[list[RemoteFile], list[str]]:
    """Return the files without the images that are no fields of view, and the names of these.

    It chooses as `choose_fields` does on a disk, but that a TIFF counts as a slide: its kind shows when it is read.
    """
    if all(looks_like_a_field(file.url) for file in slides):
        return list(slides), []
    passed_over = {
        file.url
        for file in slides
        if looks_like_a_field(file.url) and not _has_sidecar(source, file.url, names_in)
    }
    return [file for file in slides if file.url not in passed_over], [
        url.rpartition("/")[2] for url in passed_over
    ]


def _has_sidecar(source: SlideSource, url: str, names_in: NamesIn) -> bool:
    try:
        return remote_sidecar_mpp(source, url, names_in) is not None
    except MissingResolution:
        return True  # the reason is shown with the image


def remote_sidecar_mpp(source: SlideSource, url: str, names_in: NamesIn | None) -> float | None:
    """Return the um per px that a sidecar states for an image. names_in: None: each sidecar is requested.

    Raises:
        MissingResolution: a sidecar cannot be used.
    """
    folder, _, name = url.rpartition("/")

    def read(sidecar: str) -> bytes | None:
        if names_in is not None and sidecar not in names_in(folder):
            return None
        try:
            return source.read(source.file(f"{folder}/{sidecar}"), 0, MOST_SIDECAR_BYTES + 1)
        except FileNotFoundError:
            return None

    return find_mpp(name, read, where=folder)
