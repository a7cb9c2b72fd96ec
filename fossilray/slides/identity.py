"""Identity of a scan, which stays the same when its files are copied or renamed."""

from __future__ import annotations

from fossilray.core.types import SlideInfo

_SLIDE_ID = "mirax.GENERAL.SLIDE_ID"
_QUICKHASH = "openslide.quickhash-1"
_SHA256 = "field.sha256"


def scan_id_of(info: SlideInfo) -> str | None:
    """Return the id that the scanner gave (MIRAX), else the hash of the file; None if neither is known.

    The size in pixels is part of it: parts that were exported from one scan share the scanner's id.
    """
    scanner_id = info.properties.get(_SLIDE_ID, "").strip()
    digest = info.properties.get(_QUICKHASH) or info.properties.get(_SHA256, "")
    identity = scanner_id or digest.strip()
    return f"{identity} {info.width}x{info.height}" if identity else None
