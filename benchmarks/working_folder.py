"""Where a benchmark puts what it makes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def working_folder(kept: Path | None, *, name: str) -> Iterator[Path]:
    """The folder to be kept, made if need be; without one a fresh one, named after the benchmark, that goes after."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    # Servers that are going down may still write into it.
    with tempfile.TemporaryDirectory(prefix=f"fossilray-{name}-", ignore_cleanup_errors=True) as scratch:
        yield Path(scratch)
