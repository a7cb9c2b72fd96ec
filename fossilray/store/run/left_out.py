"""Damaged files that a reader passed over, kept so that its caller can name them beside the result."""

from __future__ import annotations

from fossilray.core.errors import FossilrayError


class LeftOut:
    """Messages about files that were left out, each once, in the order in which they were met."""

    def __init__(self) -> None:
        self._messages: dict[str, None] = {}

    def add(self, error: FossilrayError) -> None:
        """Note what is wrong with a file; threads may do so at once."""
        self._messages.setdefault(str(error))

    @property
    def messages(self) -> tuple[str, ...]:
        """One sentence a file, with its remedy."""
        return tuple(self._messages)
