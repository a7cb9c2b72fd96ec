"""The caption of a plate: of each specimen taxon, slide, position and England Finder reading, with notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fossilray.analysis.specimens.citation import Citation, describe_site

_NBSP = "\N{NO-BREAK SPACE}"
_UPRIGHT = ("cf.", "aff.", "sp.", "spp.", "indet.", "?", "gen.", "et", "var.", "subsp.")


@dataclass(frozen=True)
class CaptionWord:
    """A word of a caption and how it is set."""

    text: str
    is_bold: bool = False
    is_italic: bool = False
    keeps_next: bool = False
    """Whether no line ends behind it."""


def compose_caption(
    title: str,
    citations: Sequence[Citation],
    letters: Sequence[str],
    *,
    bar: str | None,
    bars: int,
    reduced: Sequence[str],
) -> list[CaptionWord]:
    """Return the words of a caption.

    Args:
        title: of the plate, such as `Plate 1`; empty: none.
        letters: of the specimens.
        bar: length of the scale bars; None: they differ.
        bars: number of scale bars.
        reduced: letters of the specimens whose stored crops are shown.
    """
    words = [CaptionWord(word, is_bold=True) for word in f"{title}.".split()] if title else []
    for letter, citation in zip(letters, citations, strict=True):
        words.append(CaptionWord(f"{letter}.", is_bold=True, keeps_next=True))
        words += _name(citation.specimen.taxon)
        words += _plain(f"{position_text(citation)}.")
    words += _plain("Scale bars as marked." if bar is None else f"Scale bar{'s' if bars > 1 else ''}: {bar}.")
    if any(citation.reading is not None for citation in citations):
        words += _plain("EF: England Finder.")
    if any(citation.from_edges_mm is not None for citation in citations):
        words += _plain("Distances are from the left and the top edge of the slide, its label at the left.")
    if any(citation.from_edges_mm is None for citation in citations):
        words += _plain("Distances in the scan are from its left and its top edge.")
    if reduced:
        which = "All specimens" if len(reduced) == len(letters) else ", ".join(reduced)
        words += _plain(f"{which}: stored crops of reduced resolution.")
    return words


def position_text(citation: Citation) -> str:
    """Return slide, site, position and reading of a specimen, as its caption has them."""
    specimen = citation.specimen
    parts = [
        f"Slide {specimen.slide.slide_id} (object {specimen.object_id})",
        describe_site(specimen.slide).replace(" m", f"{_NBSP}m"),
    ]
    if citation.from_edges_mm is None:
        parts.append(f"in the scan {{:.3f}};{_NBSP}{{:.3f}}{_NBSP}mm".format(*specimen.centre_mm))
    else:
        parts.append(f"{{:.2f}};{_NBSP}{{:.2f}}{_NBSP}mm".format(*citation.from_edges_mm))
    return ", ".join(filter(None, [*parts, citation.finder_text.replace(" ", _NBSP), specimen.remark]))


def caption_text(words: Sequence[CaptionWord]) -> str:
    """Return a caption as plain text."""
    return " ".join(word.text for word in words)


def _plain(text: str) -> list[CaptionWord]:
    # Not split(), which also breaks at spaces that keep words together.
    return [CaptionWord(word) for word in text.split(" ")]


def _name(taxon: str | None) -> list[CaptionWord]:
    """The words of a name and a full stop; all but qualifiers and authors are in italics, as the codes of names do."""
    parts = (taxon or "Undetermined").split()
    words = []
    for number, part in enumerate(parts):
        is_author = (number > 0 and part[:1].isupper()) or part[:1] in "(&0123456789"
        is_italic = taxon is not None and not is_author and part not in _UPRIGHT
        end = "." if number == len(parts) - 1 and not part.endswith(".") else ""
        words.append(CaptionWord(part + end, is_italic=is_italic))
    return words
