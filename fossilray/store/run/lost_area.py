"""Share of the foreground that could not be read, over the slides of a table."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def lost_share(slides: pa.Table) -> float:
    """Return the same as `records.lost_share_of`, for the table of a whole archive."""
    lost, foreground = (
        pc.fill_null(pc.list_element(slides[name], 0), -1.0).to_numpy()
        for name in ("pass_lost_mm2", "pass_foreground_mm2")
    )
    planned, blank, failed, content = (
        slides[name].to_numpy() for name in ("tiles_planned", "tiles_blank", "tiles_failed", "content_mm2")
    )
    by_area = lost / np.maximum(foreground, 1e-12)
    shares = np.where(lost < 0, failed / np.maximum(planned - blank, 1), by_area)
    return float((shares * content).sum() / content.sum()) if content.sum() > 0 else 0.0
