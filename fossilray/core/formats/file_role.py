"""Description of a file for error messages: its path, its use, and the remedy if it is damaged."""

from __future__ import annotations

from dataclasses import dataclass

from fossilray.core.errors import DamagedFile, FossilrayError

_MOST_CHARACTERS = 300


@dataclass(frozen=True)
class FileRole:
    """Path, use and remedy of a file, for messages about its content."""

    name: str
    """Path or URL."""
    use: str
    """A noun phrase: `the frozen catalog of the run`."""
    remedy: str
    """A clause in the imperative: `bring it back from a copy`."""
    error: type[FossilrayError] = DamagedFile
    """Class of errors: DamagedFile for files that fossilray wrote, a UsageError for files of users."""

    def damaged(self, why: object) -> FossilrayError:
        """Make the error that names this file, the reason and the remedy."""
        return self.error(f"{self.name} ({self.use}) cannot be used: {_brief(why)}; {self.remedy}")


def _brief(why: object) -> str:
    """The first line of a reason, printable, without a full stop, and of bounded length."""
    text = str(getattr(why, "strerror", None) or why).strip() or type(why).__name__
    if isinstance(why, KeyError):
        text = f"{text} is missing"
    line = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for character in text.splitlines()[0]
    )
    line = line.strip().rstrip(".")
    return line if len(line) <= _MOST_CHARACTERS else f"{line[:_MOST_CHARACTERS]}…"
