"""The run that an audit was drawn from, and whether a run still holds the objects that were drawn."""

from __future__ import annotations

from fossilray.core.errors import UsageError
from fossilray.core.text import list_some
from fossilray.labels.audit.audit_record import Audit
from fossilray.labels.current import attempts_of
from fossilray.store import RunStore


def refuse_other_objects(audit: Audit, store: RunStore) -> None:
    """Check that a run holds the objects that an audit drew.

    Raises:
        UsageError: the audit is of another run, or a slide was processed again since.
    """
    if audit.record.run_digest != store.read_run().digest:
        raise UsageError(
            f"the audit {audit.record.id} is of another run than {store.url}; it was drawn from {audit.record.run}"
        )
    attempts = attempts_of(store)
    changed = sorted({draw.slide_id for draw in audit.draws if attempts.get(draw.slide_id) != draw.attempt})
    if changed:
        raise UsageError(
            f"{list_some(changed)} of the audit {audit.record.id} {'was' if len(changed) == 1 else 'were'} processed "
            "again since it was drawn, and the calls are no longer those of the run; draw another audit"
        )
