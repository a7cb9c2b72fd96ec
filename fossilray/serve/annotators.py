"""Who may look and who may label: a file of annotators with their tokens, or the one user of a laptop."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fossilray.core.errors import UsageError
from fossilray.core.user_table import read_user_table
from fossilray.labels.occurrence import clean_text

Role = Literal["viewer", "annotator"]
_ROLES: tuple[Role, ...] = ("viewer", "annotator")
LEAST_TOKEN = 16
_MOST_GUESSES = 20
_GUESSES_WITHIN_S = 60.0


@dataclass(frozen=True)
class Annotator:
    """A person who uses the pages."""

    name: str
    role: Role

    @property
    def may_label(self) -> bool:
        return self.role == "annotator"


class Annotators:
    """Finds the person who holds a token, and slows down who guesses."""

    def __init__(self, by_digest: Mapping[bytes, Annotator], *, alone: Annotator | None = None) -> None:
        self._by_digest = dict(by_digest)
        self._alone = alone
        self._guesses: deque[float] = deque()

    @staticmethod
    def one(name: str) -> Annotators:
        """The only user, who needs no token."""
        return Annotators({}, alone=Annotator(name, "annotator"))

    @property
    def needs_token(self) -> bool:
        return self._alone is None

    def of_token(self, token: str | None) -> Annotator | None:
        """Return who holds a token; None for a token that is not known."""
        if self._alone is not None:
            return self._alone
        digest = _digest(token or "")
        holder = None
        # All digests are compared, so that the time does not tell how near a guess is.
        for known, annotator in self._by_digest.items():
            if hmac.compare_digest(known, digest):
                holder = annotator
        if holder is None and token:
            self._guesses.append(time.monotonic())
        return holder

    def is_guessed_at(self) -> bool:
        """Whether so many wrong tokens were sent in the last minute that no further one is looked at."""
        now = time.monotonic()
        while self._guesses and self._guesses[0] < now - _GUESSES_WITHIN_S:
            self._guesses.popleft()
        return len(self._guesses) >= _MOST_GUESSES


def read_annotators(path: Path) -> Annotators:
    """Read a table of name, token and role (viewer or annotator).

    Raises:
        UsageError: the file is no such table, a token is short or given twice, or a name or a role is missing.
    """
    table = read_user_table(path, use="annotators", columns=("name", "token", "role"))
    by_digest: dict[bytes, Annotator] = {}
    for row in table.rows:
        name, token, role = clean_text(row["name"]), row["token"], row["role"].casefold()
        known = next((word for word in _ROLES if word == role), None)
        if not name:
            raise row.error("name is empty; labels are recorded under it", "name")
        if known is None:
            raise row.error(f"role is {row['role']!r:.40}, expected {' or '.join(_ROLES)}", "role")
        if len(token) < LEAST_TOKEN:
            raise row.error(
                f"the token of {name} has {len(token)} characters, expected {LEAST_TOKEN} or more; "
                "`python -c 'import secrets; print(secrets.token_urlsafe(24))'` prints one",
                "token",
            )
        if _digest(token) in by_digest:
            raise row.error(
                f"{name} has a token that stands in another row, too; give each person another", "token"
            )
        by_digest[_digest(token)] = Annotator(name, known)
    if not by_digest:
        raise UsageError(f"{path} names no annotator; add a row of name, token and role")
    return Annotators(by_digest)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
