"""Give slides that failed another chance: what held them back is forgiven, not forgotten."""

from __future__ import annotations

from collections.abc import Collection

from fossilray.core.errors import UsageError
from fossilray.core.records import Failure
from fossilray.store import RunStore
from fossilray.store.run.attempts import REJECTED_AT


def retry_failures(
    store: RunStore, *, slide_ids: Collection[str] = (), error: str | None = None
) -> list[Failure]:
    """Let the next job try again what failed; the failures forgiven, those of chosen slides or of one class.

    Without a choice every failure is forgiven. Losses of workers count anew; the records stay in attempts/.

    Raises:
        UsageError: nothing that fits the choice has failed.
        RunNotFound: there is no run at this place.
    """
    store.read_run()
    standing = [failure for failure in store.failures() if failure.stage != REJECTED_AT]
    missing = sorted(set(slide_ids) - {failure.slide_id for failure in standing})
    if missing:
        raise UsageError(
            f"{store.url} holds no failure of {', '.join(missing[:5])}; `fossilray failures` lists those that there are"
        )
    # A class is chosen by what befell a slide last; what befell it before must not hold it back either.
    last = {failure.slide_id: failure.error for failure in standing}
    if error is not None and error not in last.values():
        classes = ", ".join(sorted(set(last.values()))) or "none"
        raise UsageError(f"no slide of {store.url} is held back by {error}; classes there: {classes}")
    chosen = [
        failure
        for failure in standing
        if (not slide_ids or failure.slide_id in slide_ids) and error in (None, last[failure.slide_id])
    ]
    store.forgive(chosen)
    return chosen
