"""A file as an error names it: where it is, what it is for, and what restores it."""

from __future__ import annotations

from dataclasses import dataclass

from fossilray.core.errors import DamagedFile, FossilrayError

_MOST_CHARACTERS = 300


@dataclass(frozen=True)
class FileRole:
    """What a message says of a file that is not what it should be."""

    name: str
    """Path or URL."""
    use: str
    """A noun phrase: `the frozen catalog of the run`."""
    remedy: str
    """A clause in the imperative: `bring it back from a copy`."""
    error: type[FossilrayError] = DamagedFile
    """The class to raise: DamagedFile for what fossilray wrote, a UsageError for what users write."""

    def damaged(self, why: object) -> FossilrayError:
        """The error that says why this file cannot be used."""
        return self.error(f"{self.name} ({self.use}) cannot be used: {_brief(why)}; {self.remedy}")


def _brief(why: object) -> str:
    """The first line of a reason, printable and without its full stop."""
    text = str(getattr(why, "strerror", None) or why).strip() or type(why).__name__
    if isinstance(why, KeyError):
        text = f"{text} is missing"
    line = "".join(
        sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text.splitlines()[0]
    )
    line = line.strip().rstrip(".")
    return line if len(line) <= _MOST_CHARACTERS else f"{line[:_MOST_CHARACTERS]}…"
