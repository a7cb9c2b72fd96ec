"""The run directory: what lies where, and how it changes."""

from fossilray.store.dataset.dataset_store import open_run
from fossilray.store.run.run_store import RunStore

__all__ = ["RunStore", "open_run"]
