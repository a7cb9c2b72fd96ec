"""fossilray: from scanned palynology slides to a census of microfossils.

The names in `__all__` are the public API; every other name may change between versions. They are imported when they
are first used, so `import fossilray` loads no library.

A run is a directory on a disk or in an object store, where `fossilray process` or `fossilray.process` keeps what it
found: tables of slides and objects, crops, and embeddings. The examples read a run at `census`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fossilray.core.version import __version__

if TYPE_CHECKING:
    from fossilray.core import errors
    from fossilray.core.config import RunConfig, TrainConfig, load_config, load_train_config
    from fossilray.jobs.process import process
    from fossilray.jobs.train import train
    from fossilray.models.heads import load_head
    from fossilray.slides.slide import open_slide
    from fossilray.store import open_run
    from fossilray.store.query.connection import connect, load_crops, load_embeddings, query
    from fossilray.synthetic.truth import match_boxes, score_against_truth
    from fossilray.training.crops.stream import CropStream
    from fossilray.training.crops.table import open_crops

__all__ = [
    "CropStream",
    "RunConfig",
    "TrainConfig",
    "__version__",
    "connect",
    "errors",
    "load_config",
    "load_crops",
    "load_embeddings",
    "load_head",
    "load_train_config",
    "match_boxes",
    "open_crops",
    "open_run",
    "open_slide",
    "process",
    "query",
    "score_against_truth",
    "train",
]

_MODULES = {
    "CropStream": "fossilray.training.crops.stream",
    "RunConfig": "fossilray.core.config",
    "TrainConfig": "fossilray.core.config",
    "connect": "fossilray.store.query.connection",
    "errors": "fossilray.core",
    "load_config": "fossilray.core.config",
    "load_crops": "fossilray.store.query.connection",
    "load_embeddings": "fossilray.store.query.connection",
    "load_head": "fossilray.models.heads",
    "load_train_config": "fossilray.core.config",
    "match_boxes": "fossilray.synthetic.truth",
    "open_crops": "fossilray.training.crops.table",
    "open_run": "fossilray.store",
    "open_slide": "fossilray.slides.slide",
    "process": "fossilray.jobs.process",
    "query": "fossilray.store.query.connection",
    "score_against_truth": "fossilray.synthetic.truth",
    "train": "fossilray.jobs.train",
}
"""The module of each public name."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = import_module("fossilray.core.errors") if name == "errors" else _attribute(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _attribute(name: str) -> Any:
    return getattr(import_module(_MODULES[name]), name)
