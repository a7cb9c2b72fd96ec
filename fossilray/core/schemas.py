"""Arrow schemas of the files that fossilray writes; those of records are derived from their dataclasses."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

from fossilray.core.records import CatalogRow, Failure, SlideSummary
from fossilray.core.slide_sample import SlideSample

SCHEMA_VERSION = 7
"""2: seconds_fetch. 5: losses per pass and boxes_outside in `slides`. 6: doubts, planes, scan_id, mpp_from, extra.

7: focus_plane and plane_sharpness in `objects`, planes_read in `slides`; depth interval, depth_unit, sample_type and
preparation in `slides` and the catalog.
"""


def _schema(*fields: tuple[str, pa.DataType, bool]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=nullable) for name, kind, nullable in fields])


def select_fields(schema: pa.Schema, *names: str) -> list[pa.Field]:
    """Fields of a schema by name, in the order of the names.

    Raises:
        KeyError: the schema has no field of this name.
    """
    return [schema.field(name) for name in names]


def select_names(schema: pa.Schema, *names: str) -> tuple[str, ...]:
    """Return the names after checking that the schema has them.

    Raises:
        KeyError: the schema has no field of this name.
    """
    return tuple(field.name for field in select_fields(schema, *names))


def _schema_of(record: type, *, leave_out: Collection[str] = ()) -> pa.Schema:
    """A column for each field of a dataclass; a field that may be None is nullable.

    `Annotated[int, pa.int32()]` states the type where it is not the default: string, int64, double, bool, list for a
    tuple, and struct for a dataclass.
    """
    hints = get_type_hints(record, include_extras=True)
    return pa.schema(
        [_field(field.name, hints[field.name]) for field in fields(record) if field.name not in leave_out]
    )


def _field(name: str, hint: Any) -> pa.Field:
    nullable = False
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (option for option in get_args(hint) if option is not type(None))
        nullable = True
    return pa.field(name, _arrow_type(hint), nullable=nullable)


def _arrow_type(hint: Any) -> pa.DataType:
    if get_origin(hint) is Annotated:
        return get_args(hint)[1]
    if get_origin(hint) is tuple:
        return pa.list_(_arrow_type(get_args(hint)[0]))
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return pa.struct(list(_schema_of(hint)))
    return _DEFAULT_TYPES[hint]


_DEFAULT_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


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
    ("focus_plane", pa.int32(), True),
    ("plane_sharpness", pa.list_(pa.float32()), True),
)
"""Columns of an objects file; `well` is the Hive partition, in its path."""

NEW_OBJECT_COLUMNS = select_names(OBJECTS_SCHEMA, "focus_plane", "plane_sharpness")
"""Columns that objects files before version 7 lack; they are read as null."""


SLIDES_SCHEMA = _schema_of(SlideSummary)
"""Columns of `slides`, one row per committed slide."""


CATALOG_SCHEMA = _schema_of(CatalogRow)
"""Columns of a catalog, one row per slide."""


FAILURES_SCHEMA = _schema_of(Failure, leave_out=("given_up",))
"""Columns of `failures`, one row per attempt that failed."""


SAMPLES_SCHEMA = _schema_of(SlideSample)
"""Columns of the table of samples, one row per slide."""


CURATION_SCHEMA = _schema(
    ("slide_id", pa.string(), False),
    ("object_id", pa.int32(), False),
    ("cluster", pa.int32(), False),
    ("family", pa.int32(), False),
    ("keep", pa.bool_(), False),
    ("weight", pa.float32(), False),
    ("reason", pa.string(), True),
)
"""Columns of a curation, in the order of a table of crops; cluster and family are -1 for objects without a vector."""


def embeddings_schema(dimension: int) -> pa.Schema:
    """Columns of embeddings of a dataset or an inference job; `well` is the Hive partition, in the file's path."""
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
"""Predictions of a head: the three most probable classes, and the entropy of all classes in nats.

Null for objects whose pixels could not be read; the third class is null for a head of two.
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
"""Predictions of a head with calibrated uncertainty.

`genera`: the prediction set at the requested coverage, most probable first. `wrong_p`: conformal p-value of "the
prediction is wrong". `novelty`: distance from all labels; `novelty_p`: p-value of "the object is of a known genus".
"""


RANKED_PREDICTIONS_SCHEMA = pa.schema(
    [*CALIBRATED_PREDICTIONS_SCHEMA, pa.field("taxon", pa.string()), pa.field("rank", pa.string())]
)
"""Predictions of a head with taxa.

`taxon`: the name at the finest rank at which the prediction is reliable, null if there is none; `rank`: its rank, null
for a class that is no taxon.
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
"""Boxes of the objects painted on synthetic slides, level-0 pixels in OpenSlide's frame."""
