"""What workers share that work on what is stored already: their state while they do, and failures of the data's own."""

from __future__ import annotations

import secrets
import socket
from dataclasses import replace
from typing import ClassVar

from fossilray.core.errors import ConditionalCreateUnsupported, FossilrayError, StoreOut, UsageError
from fossilray.core.exceptions_as_records import describe_exception, is_out_of_memory
from fossilray.core.machine import resident_bytes
from fossilray.core.records import CatalogRow, Failure, WorkerStatus, utc_now

ENDS_THE_JOB = (StoreOut, ConditionalCreateUnsupported, UsageError, KeyboardInterrupt, SystemExit)
"""What is not one slide's failure, nor one shard's: the store is out, the job is not possible, the process ends."""


class StoredSlideWorker:
    """The part of a `records.Worker` that is the same whatever is made of stored crops and vectors."""

    lower: ClassVar[str]
    """The setting to lower where memory ran out."""
    _state: WorkerStatus | None = None

    def state(self) -> WorkerStatus | None:
        """What it does at the moment, with the memory that it holds; None between two rows."""
        state = self._state
        return None if state is None else replace(state, resident_bytes=resident_bytes())

    def close(self) -> None:
        """It holds nothing on its machine."""

    def _show(self, slide_id: str, stage: str, share: float) -> None:
        self._state = WorkerStatus(slide_id, stage, share)

    def _failure(self, row: CatalogRow, caught: BaseException) -> Failure:
        """The failure of one slide or shard that an exception of whatever class is."""
        raised = describe_exception(caught)
        no_memory, stored = is_out_of_memory(caught), isinstance(caught, FossilrayError)
        return Failure(
            slide_id=row.slide_id,
            attempt=secrets.token_hex(8),
            stage=self._state.stage if self._state else "read",
            error="OutOfMemory" if no_memory else raised.error,
            message=f"memory ran out ({raised.message[:400]}); lower {self.lower}"
            if no_memory
            else raised.message,
            transient=no_memory or not stored,
            quarantined=stored and not no_memory,
            given_up=False,
            host=socket.gethostname(),
            failed_at=utc_now(),
            place=None if no_memory or stored else raised.place,
            traceback=None if stored else raised.traceback,
        )
