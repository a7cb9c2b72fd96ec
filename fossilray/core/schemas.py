"""Arrow schemas of the files that fossilray writes."""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 5
"""2: seconds_fetch. 5: losses per pass and boxes_outside in `slides`."""


def _schema(*fields: tuple[str, pa.DataType, bool]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=nullable) for name, kind, nullable in fields])


OBJECTS_SCHEMA = _schema(
    ("slide_id", pa.string(), False),
    ("arrays", pa.string(), False),
    ("measured_depth_m", pa.float64(), True),
    ("object_id", pa.int32(), False),
    ("x_min", pa.int32(), False),
    ("y_min", pa.int32(), False),
    ("x_max", pa.int32(), False),
    ("y_max", pa.int32(), False),
    ("width_um", pa.float32(), False),
    ("height_um", pa.float32(), False),
    ("area_um2", pa.float32(), False),
    ("score", pa.float32(), False),
    ("overlap", pa.float32(), False),
    ("isolated", pa.bool_(), False),
    ("touches_edge", pa.bool_(), False),
    ("opacity", pa.float32(), True),
    ("sharpness", pa.float32(), True),
    ("mean_r", pa.uint8(), True),
    ("mean_g", pa.uint8(), True),
    ("mean_b", pa.uint8(), True),
)
"""Columns inside an objects file; `well` is the Hive partition and lives in the path."""


SLIDES_SCHEMA = _schema(
    ("slide_id", pa.string(), False),
    ("path", pa.string(), False),
    ("well", pa.string(), False),
    ("measured_depth_m", pa.float64(), True),
    ("vendor", pa.string(), False),
    ("width", pa.int64(), False),
    ("height", pa.int64(), False),
    ("mpp", pa.float64(), False),
    ("bounds_x", pa.int64(), False),
    ("bounds_y", pa.int64(), False),
    ("bounds_width", pa.int64(), False),
    ("bounds_height", pa.int64(), False),
    ("scanned_mm2", pa.float64(), False),
    ("tiles_planned", pa.int32(), False),
    ("tiles_blank", pa.int32(), False),
    ("tiles_read", pa.int32(), False),
    ("tiles_failed", pa.int32(), False),
    ("content_mm2", pa.float64(), False),
    ("detector_megapixels", pa.float64(), False),
    ("device", pa.string(), False),
    ("objects", pa.int32(), False),
    ("crops_coarser", pa.int32(), False),
    ("crops_failed", pa.int32(), False),
    ("array_bytes", pa.int64(), False),
    ("seconds_fetch", pa.float64(), False),
    ("seconds_open", pa.float64(), False),
    ("seconds_detect", pa.float64(), False),
    ("seconds_merge", pa.float64(), False),
    ("seconds_crops", pa.float64(), False),
    ("seconds_embed", pa.float64(), False),
    ("seconds_write", pa.float64(), False),
    ("seconds_total", pa.float64(), False),
    ("attempt", pa.string(), False),
    ("host", pa.string(), False),
    ("finished_at", pa.string(), False),
    ("boxes_outside", pa.int32(), True),
    ("lost_share", pa.float64(), True),
    ("pass_um_per_px", pa.list_(pa.float64()), True),
    ("pass_foreground_mm2", pa.list_(pa.float64()), True),
    ("pass_lost_mm2", pa.list_(pa.float64()), True),
)


CATALOG_SCHEMA = _schema(
    ("slide_id", pa.string(), False),
    ("path", pa.string(), False),
    ("vendor", pa.string(), True),
    ("width", pa.int64(), True),
    ("height", pa.int64(), True),
    ("mpp", pa.float64(), True),
    ("levels", pa.int32(), True),
    ("bounds_x", pa.int64(), True),
    ("bounds_y", pa.int64(), True),
    ("bounds_width", pa.int64(), True),
    ("bounds_height", pa.int64(), True),
    ("well", pa.string(), True),
    ("measured_depth_m", pa.float64(), True),
)


FAILURES_SCHEMA = _schema(
    ("slide_id", pa.string(), False),
    ("attempt", pa.string(), False),
    ("stage", pa.string(), False),
    ("error", pa.string(), False),
    ("message", pa.string(), False),
    ("transient", pa.bool_(), False),
    ("quarantined", pa.bool_(), False),
    ("host", pa.string(), False),
    ("failed_at", pa.string(), False),
    ("place", pa.string(), True),
    ("traceback", pa.string(), True),
    ("root", pa.string(), True),
)


CURATION_SCHEMA = _schema(
    ("slide_id", pa.string(), False),
    ("object_id", pa.int32(), False),
    ("cluster", pa.int32(), False),
    ("family", pa.int32(), False),
    ("keep", pa.bool_(), False),
    ("weight", pa.float32(), False),
    ("reason", pa.string(), True),
)
"""Columns of a curation, in the order of a table of crops; cluster and family are -1 of what has no vector."""


def embeddings_schema(dimension: int) -> pa.Schema:
    """Columns of embeddings, a dataset's or those of a later job; `well` is the Hive partition, as of objects."""
    return _schema(
        ("slide_id", pa.string(), False),
        ("object_id", pa.int32(), False),
        ("embedding", pa.list_(pa.field("element", pa.float16(), nullable=False), dimension), False),
    )


PREDICTIONS_SCHEMA = _schema(
    ("slide_id", pa.string(), False),
    ("object_id", pa.int32(), False),
    ("genus", pa.string(), True),
    ("score", pa.float32(), True),
    ("entropy", pa.float32(), True),
    ("genus_2", pa.string(), True),
    ("score_2", pa.float32(), True),
    ("genus_3", pa.string(), True),
    ("score_3", pa.float32(), True),
)
"""What a head says of objects: the three likeliest classes, and the entropy of all of them in nats.

Null where the pixels could not be read, and for the third of two classes.
"""


CALIBRATED_PREDICTIONS_SCHEMA = pa.schema(
    [
        *PREDICTIONS_SCHEMA,
        pa.field("genera", pa.list_(pa.string())),
        pa.field("wrong_p", pa.float32()),
        pa.field("novelty", pa.float32()),
        pa.field("novelty_p", pa.float32()),
    ]
)
"""What a head says that knows how sure it may be.

`genera`: those that cannot be excluded at the coverage asked for, the likeliest first. `wrong_p`: conformal p-value of
"the call is wrong". `novelty`: distance from all labels, and `novelty_p`: p-value of "it is of a known genus".
"""


TRUTH_SCHEMA = _schema(
    ("slide_id", pa.string(), False),
    ("well", pa.string(), False),
    ("measured_depth_m", pa.float64(), True),
    ("object_id", pa.int32(), False),
    ("x_min", pa.int32(), False),
    ("y_min", pa.int32(), False),
    ("x_max", pa.int32(), False),
    ("y_max", pa.int32(), False),
    ("kind", pa.string(), False),
    ("is_fossil", pa.bool_(), False),
)
"""Boxes that the synthetic archive really painted, level-0 pixels of OpenSlide's frame."""
