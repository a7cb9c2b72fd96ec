"""Schemas of the files that fossilray writes."""

from __future__ import annotations

import pyarrow as pa
import pytest

from fossilray.core import schemas
from fossilray.core.schemas import embeddings_schema, select_fields

FROZEN = {
    "OBJECTS_SCHEMA": """
        slide_id string not null
        arrays string not null
        measured_depth_m double
        object_id int32 not null
        x_min int32 not null
        y_min int32 not null
        x_max int32 not null
        y_max int32 not null
        width_um float not null
        height_um float not null
        area_um2 float not null
        score float not null
        overlap float not null
        isolated bool not null
        touches_edge bool not null
        opacity float
        sharpness float
        mean_r uint8
        mean_g uint8
        mean_b uint8
        focus_plane int32
        plane_sharpness list<item: float>
    """,
    "SLIDES_SCHEMA": """
        slide_id string not null
        path string not null
        well string not null
        measured_depth_m double
        vendor string not null
        width int64 not null
        height int64 not null
        mpp double not null
        bounds_x int64 not null
        bounds_y int64 not null
        bounds_width int64 not null
        bounds_height int64 not null
        scanned_mm2 double not null
        tiles_planned int32 not null
        tiles_blank int32 not null
        tiles_read int32 not null
        tiles_failed int32 not null
        content_mm2 double not null
        detector_megapixels double not null
        device string not null
        objects int32 not null
        crops_coarser int32 not null
        crops_failed int32 not null
        array_bytes int64 not null
        seconds_fetch double not null
        seconds_open double not null
        seconds_detect double not null
        seconds_merge double not null
        seconds_crops double not null
        seconds_embed double not null
        seconds_write double not null
        seconds_total double not null
        attempt string not null
        host string not null
        finished_at string not null
        boxes_outside int32
        lost_share double
        pass_um_per_px list<item: double>
        pass_foreground_mm2 list<item: double>
        pass_lost_mm2 list<item: double>
        mpp_from string
        planes int32
        scan_id string
        doubts list<doubt>
        extra list<extra>
        longest_um_quartiles list<item: double>
        planes_read int32
        top_depth_m double
        base_depth_m double
        depth_unit string
        sample_type string
        preparation string
    """,
    "CATALOG_SCHEMA": """
        slide_id string not null
        path string not null
        vendor string
        width int64
        height int64
        mpp double
        levels int32
        bounds_x int64
        bounds_y int64
        bounds_width int64
        bounds_height int64
        well string
        measured_depth_m double
        top_depth_m double
        base_depth_m double
        depth_unit string
        sample_type string
        preparation string
        mpp_from string
        planes int32
        scan_id string
        doubts list<doubt>
        extra list<extra>
    """,
    "FAILURES_SCHEMA": """
        slide_id string not null
        attempt string not null
        stage string not null
        error string not null
        message string not null
        transient bool not null
        quarantined bool not null
        host string not null
        failed_at string not null
        place string
        traceback string
        root string
    """,
    "CURATION_SCHEMA": """
        slide_id string not null
        object_id int32 not null
        cluster int32 not null
        family int32 not null
        keep bool not null
        weight float not null
        reason string
    """,
    "PREDICTIONS_SCHEMA": """
        slide_id string not null
        object_id int32 not null
        genus string
        score float
        entropy float
        genus_2 string
        score_2 float
        genus_3 string
        score_3 float
    """,
    "CALIBRATED_PREDICTIONS_SCHEMA": """
        slide_id string not null
        object_id int32 not null
        genus string
        score float
        entropy float
        genus_2 string
        score_2 float
        genus_3 string
        score_3 float
        genera list<item: string>
        wrong_p float
        novelty float
        novelty_p float
    """,
    "RANKED_PREDICTIONS_SCHEMA": """
        slide_id string not null
        object_id int32 not null
        genus string
        score float
        entropy float
        genus_2 string
        score_2 float
        genus_3 string
        score_3 float
        genera list<item: string>
        wrong_p float
        novelty float
        novelty_p float
        taxon string
        rank string
    """,
    "TRUTH_SCHEMA": """
        slide_id string not null
        well string not null
        measured_depth_m double
        object_id int32 not null
        x_min int32 not null
        y_min int32 not null
        x_max int32 not null
        y_max int32 not null
        kind string not null
        is_fossil bool not null
    """,
}
"""Columns on disk: name, type, and whether null is forbidden. What is written here must stay readable."""

TYPES = {
    "string": pa.string(),
    "double": pa.float64(),
    "float": pa.float32(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "bool": pa.bool_(),
    "list<item: double>": pa.list_(pa.float64()),
    "list<item: float>": pa.list_(pa.float32()),
    "list<item: string>": pa.list_(pa.string()),
    "list<doubt>": pa.list_(
        pa.struct(
            [
                pa.field("code", pa.string(), nullable=False),
                pa.field("value", pa.float64()),
                pa.field("sentence", pa.string(), nullable=False),
            ]
        )
    ),
    "list<extra>": pa.list_(
        pa.struct(
            [
                pa.field("column", pa.string(), nullable=False),
                pa.field("value", pa.string(), nullable=False),
            ]
        )
    ),
}


def frozen_schema(name: str) -> pa.Schema:
    fields = []
    for line in FROZEN[name].strip().splitlines():
        column, kind = line.strip().split(" ", 1)
        fields.append(
            pa.field(column, TYPES[kind.removesuffix(" not null")], nullable=not kind.endswith(" not null"))
        )
    return pa.schema(fields)


@pytest.mark.parametrize("name", FROZEN)
def test_schemas_derived_from_records_are_byte_for_byte_those_on_disk(name: str) -> None:
    schema: pa.Schema = getattr(schemas, name)
    assert schema.serialize().to_pybytes() == frozen_schema(name).serialize().to_pybytes()


def test_the_schema_of_embeddings_holds_vectors_of_fixed_length() -> None:
    field = embeddings_schema(7).field("embedding")
    assert field.type == pa.list_(pa.field("element", pa.float16(), nullable=False), 7)


def test_fields_are_cut_from_a_schema_by_name_and_an_unknown_name_is_a_fault() -> None:
    names = [field.name for field in select_fields(schemas.OBJECTS_SCHEMA, "score", "slide_id")]
    assert names == ["score", "slide_id"]
    with pytest.raises(KeyError):
        select_fields(schemas.OBJECTS_SCHEMA, "genus")
