"""What workers share that work on what is stored already: their state while they do, and failures of the data's own."""

from __future__ import annotations

import secrets
import socket
from dataclasses import replace
from typing import ClassVar

from fossilray.errors import StoreError
from fossilray.records import CatalogRow, Failure, WorkerState, utc_now
from fossilray.worker import is_lack_of_memory, resident_bytes


class StoredDataWorker:
    """The part of a `records.Worker` that is the same whatever is made of stored crops and vectors."""

    lower: ClassVar[str]
    """The setting to lower where memory ran out."""
    _state: WorkerState | None = None

    def state(self) -> WorkerState | None:
        """What it does at the moment, with the memory that it holds; None between two rows."""
        state = self._state
        return None if state is None else replace(state, resident_bytes=resident_bytes())

    def close(self) -> None:
        """It holds nothing on its machine."""

    def _show(self, slide_id: str, stage: str, share: float) -> None:
        self._state = WorkerState(slide_id, stage, share)

    def _failure(self, row: CatalogRow, caught: Exception) -> Failure:
        """What is the data's own fault, or a lack of memory; any other error is a bug of ours and raised again."""
        transient = not isinstance(caught, StoreError)
        if transient and not is_lack_of_memory(caught):
            raise caught
        told = " ".join(str(caught).split())[:400]
        return Failure(
            slide_id=row.slide_id,
            attempt=secrets.token_hex(8),
            stage=self._state.stage if self._state else "read",
            error="OutOfMemory" if transient else type(caught).__name__,
            message=f"memory ran out ({told}); lower {self.lower}" if transient else told,
            transient=transient,
            quarantined=not transient,
            host=socket.gethostname(),
            failed_at=utc_now(),
        )
