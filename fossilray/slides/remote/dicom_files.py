"""Files of a DICOM series in an object store, which are staged together: OpenSlide opens all by any of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from fossilray.core.errors import SourceAccessDenied
from fossilray.core.parallel import map_in_chunks
from fossilray.slides.dicom import DICOM_START_BYTES, NOT_DICOM, DicomSeries, read_series
from fossilray.slides.remote.source import RemoteFile, SlideSource

_THREADS = 32


def read_all_series(source: SlideSource, files: Sequence[RemoteFile]) -> dict[str, DicomSeries]:
    """Return the DICOM series of files by URL; it takes a request for each file that may be DICOM.

    What was read is kept with the source.
    """
    wanted = [file for file in files if _may_be_dicom(file.url)]
    series = map_in_chunks(lambda file: _series_of(source, file), wanted, threads=_THREADS)
    return {file.url: known for file, known in zip(wanted, series, strict=True) if known is not None}


def series_files(source: SlideSource, file: RemoteFile) -> dict[str, RemoteFile]:
    """Return the other files of a slide's series by local name; none for a file that is not DICOM."""
    wanted = read_all_series(source, [file]).get(file.url)
    if wanted is None:
        return {}
    others = [other for other in source.files(file.url.rpartition("/")[0]) if other.url != file.url]
    series = read_all_series(source, others)
    fitting = [other for other in others if other.url in series and series[other.url].uid == wanted.uid]
    return {f"series-{number}.dcm": other for number, other in enumerate(fitting)}


def _series_of(source: SlideSource, file: RemoteFile) -> DicomSeries | None:
    key = file.url, file.version
    if key not in source.series:
        try:
            source.series[key] = read_series(source.read(file, 0, DICOM_START_BYTES))
        except (FileNotFoundError, SourceAccessDenied):
            return None
    return source.series[key]


def _may_be_dicom(url: str) -> bool:
    """Return whether a file may be DICOM, by its ending alone."""
    return PurePosixPath(url).suffix.lower() not in NOT_DICOM
