"""Files of a run's slides as they are available now, which may be elsewhere or gone since the run was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from fossilray.core.errors import SlideError
from fossilray.core.records import SlideSummary
from fossilray.slides.identity import scan_id_of
from fossilray.slides.slide import Slide, open_slide


@dataclass(frozen=True)
class AvailableSlide:
    """An open slide, or the reason why there is none."""

    slide: Slide | None
    reason: str = ""


class AvailableFiles:
    """Opens slides of a run where they lie now.

    folder: holds the files under the names that the run knows; None: they lie where the run was made.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def open(self, summary: SlideSummary) -> AvailableSlide:
        """Open the file of a slide if it is available and is the scan of the run; the caller closes it."""
        if self._folder is None and "://" in summary.path:
            return AvailableSlide(None, f"{summary.path} is in an object store")
        path = Path(summary.path) if self._folder is None else self._folder / PurePath(summary.path).name
        try:
            slide = open_slide(path, mpp_override=summary.mpp)
        except SlideError as error:
            return AvailableSlide(None, str(error))
        scan_id = scan_id_of(slide.info)
        is_same = (slide.info.width, slide.info.height) == (summary.width, summary.height)
        if not is_same or (None not in (scan_id, summary.scan_id) and scan_id != summary.scan_id):
            slide.close()
            return AvailableSlide(None, f"{path} is another scan than the run was made of")
        return AvailableSlide(slide)

    def properties(self, summary: SlideSummary) -> Mapping[str, str]:
        """Return the properties of a slide whose scanner states where it lies on its glass; else none."""
        if summary.vendor != "hamamatsu":
            return {}
        available = self.open(summary)
        if available.slide is None:
            return {}
        with available.slide as slide:
            return slide.info.properties
