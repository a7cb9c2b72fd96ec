"""Texts of a catalog that went through another encoding on their way, and are read as they were before.

A CSV in UTF-8 that Excel took for Windows-1252 and saved again has two signs for one letter. The proof is a path that
leads nowhere as it is written, and to a slide once the two signs are one letter again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_WAYS = (("cp1252", "utf-8"), ("mac_roman", "utf-8"), ("cp850", "utf-8"))
"""Encodings by which a program took a text, and in which it was written."""
_WAYS_OF_WINDOWS = (("cp1252", "mac_roman"), ("cp1252", "cp850"))
"""The same where this program took a text for Windows-1252: `CSV (Macintosh)` and `CSV (MS-DOS)` of Excel."""
_MOST_NAMED = 3


@dataclass
class TextRepair:
    """Repairs the texts of one table and counts what it did."""

    exists: Callable[[str], bool]
    """Whether there is a slide at a path of the table."""
    encoding: str
    """Of the table, as `decode_user_text` names it."""
    proven: list[tuple[str, str]] = field(default_factory=list)
    _repaired: list[str] = field(default_factory=list)
    _lost: list[str] = field(default_factory=list)
    _texts: int = 0

    def path(self, text: str, location: str) -> str:
        """Return a path as it is, or the form of it that leads to a slide. location: line or cell, for the notes."""
        if text.isascii() and "\\" not in text and text == text.strip() and "?" not in text:
            return text
        forms = list(self._forms(text))
        has_lost_signs = "?" in text or "\N{REPLACEMENT CHARACTER}" in text
        if not (forms or has_lost_signs) or self.exists(text):
            return text
        for way, form in forms:
            if self.exists(form):
                if way is not None and way not in self.proven:
                    self.proven.append(way)
                self._repaired.append(f"{location}: path {text!r} is read as {form!r}")
                return form
        nor = f", nor at {forms[0][1]!r}" if forms else ""
        self._lost.append(f"{location}: there is nothing at path {text!r}{nor}")
        return text

    def text(self, text: str) -> str:
        """Return a text as it was before an encoding that a path of this table proved."""
        if text.isascii():
            return text
        for way in self.proven:
            form = _decode_again(text, *way)
            if form is not None and form != text:
                self._texts += 1
                return form
        return text

    def notes(self) -> Iterator[str]:
        """What was repaired and what could not be, as sentences for the user."""
        if self._repaired:
            texts = f", and {self._texts:,} other texts likewise" if self._texts else ""
            yield f"{_first_of(self._repaired)}, where a slide is{texts}; correct the table"
        if self._lost:
            yield f"{_first_of(self._lost)}; letters may have been lost when the table was saved: correct them"

    def _forms(self, text: str) -> Iterator[tuple[tuple[str, str] | None, str]]:
        """Other forms of a path, with the encodings that lead to each."""
        plain = text.strip() if "://" in text else text.strip().replace("\\", "/")
        if plain != text:
            yield None, plain
        if plain.isascii():
            return
        for way in (*_WAYS, *(_WAYS_OF_WINDOWS if self.encoding == "cp1252" else ())):
            form = _decode_again(plain, *way)
            if form is not None and form != plain:
                yield way, form


def _decode_again(text: str, taken_for: str, written_in: str) -> str | None:
    """Return the text that gave this one when its bytes were taken for another encoding; None if there is none."""
    try:
        form = b"".join(_byte(letter, taken_for) for letter in text).decode(written_in)
    except UnicodeError:
        return None
    return form if form.isprintable() else None


def _byte(letter: str, encoding: str) -> bytes:
    try:
        return letter.encode(encoding)
    except UnicodeEncodeError:
        # Windows gives bytes that its code page lacks the control characters of Latin-1.
        return letter.encode("latin-1") if "\x80" <= letter <= "\x9f" else letter.encode("ascii")


def _first_of(findings: list[str]) -> str:
    more = f", and {len(findings) - _MOST_NAMED:,} more" if len(findings) > _MOST_NAMED else ""
    return "; ".join(findings[:_MOST_NAMED]) + more
