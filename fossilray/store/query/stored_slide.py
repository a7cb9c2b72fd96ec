"""A committed slide as later jobs read it."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from fossilray.core.errors import StoreError
from fossilray.store.run.objects_file import Footer, decode_objects, parse_tail
from fossilray.store.run.run_store import RunStore


@dataclass(frozen=True)
class StoredSlide:
    """The objects of one committed slide, and where their crops are."""

    slide_id: str
    objects: pa.Table
    footer: Footer


def read_slide(store: RunStore, slide_id: str, path: str) -> StoredSlide:
    """Read the objects of a committed slide. path: its objects file, relative to the run.

    Raises:
        StoreError: its objects file is gone, damaged or another slide's.
    """
    name = f"{store.url}/{path}"
    try:
        content = store.files.read(path)
    except FileNotFoundError:
        raise StoreError(f"{name} is gone although its slide was committed; see `fossilray verify`") from None
    footer, _ = parse_tail(content, name=name)
    if footer.summary.slide_id != slide_id:
        raise StoreError(
            f"{name} is of slide {footer.summary.slide_id}; see what else is with `fossilray verify`"
        )
    return StoredSlide(slide_id, decode_objects(content, name=name), footer)
