"""Links to specimens: a scan and a box on it, by which a specimen is match again in any run of the same scan."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from fossilray.core.errors import UsageError
from fossilray.core.records import SlideSummary

SCHEME = "fossilray:"

_LINK = re.compile(r"fossilray:(scan|slide)/([^/#?\s]+)#xywh=(\d{1,9}),(\d{1,9}),(\d{1,9}),(\d{1,9})")


@dataclass(frozen=True)
class SpecimenLink:
    """A box on a scan. The number of an object changes when its slide is processed again; the box and scan do not."""

    scan_id: str | None
    """Identity of the scan, as in `slides`; None where the run does not know it."""
    slide_id: str | None
    """Name of the slide, in place of the scan's identity."""
    box: tuple[int, int, int, int]
    """x_min, y_min, x_max, y_max in level-0 px of OpenSlide's frame."""

    def __str__(self) -> str:
        """The link as text; its end is a media fragment (W3C Media Fragments URI 1.0, section 4.2.2)."""
        kind, name = ("slide", self.slide_id) if self.scan_id is None else ("scan", self.scan_id)
        x, y, right, bottom = self.box
        return f"{SCHEME}{kind}/{quote(name or '', safe='')}#xywh={x},{y},{right - x},{bottom - y}"

    def is_on(self, slide: SlideSummary) -> bool:
        """Whether a slide is the scan of the link."""
        if self.scan_id is not None:
            return slide.scan_id == self.scan_id
        return slide.slide_id == self.slide_id


def link_to(slide: SlideSummary, box: tuple[int, int, int, int]) -> SpecimenLink:
    """Return the link to a box on a slide."""
    return SpecimenLink(slide.scan_id, slide.slide_id if slide.scan_id is None else None, box)


def parse_link(text: str) -> SpecimenLink:
    """Parse a link.

    Raises:
        UsageError: the text is no link to a specimen.
    """
    match = _LINK.fullmatch(text.strip())
    if match is None or not int(match[5]) or not int(match[6]):
        raise UsageError(
            f"{text!r:.200} is no link to a specimen; `fossilray cite` writes one: "
            "fossilray:scan/IDENTITY#xywh=LEFT,TOP,WIDTH,HEIGHT"
        )
    name = unquote(match[2])
    x, y, width, height = map(int, match.groups()[2:])
    box = (x, y, x + width, y + height)
    return SpecimenLink(name, None, box) if match[1] == "scan" else SpecimenLink(None, name, box)
