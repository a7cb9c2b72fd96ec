"""Status and dry run state which slides have focus planes, and whether they are read."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
from support.run_fixtures import a_summary

from fossilray.core.records import SlideSummary
from fossilray.core.schemas import SLIDES_SCHEMA
from fossilray.store.run.focus_planes import describe_planes


def table(*slides: SlideSummary) -> pa.Table:
    return pa.Table.from_pylist([vars(slide) for slide in slides], schema=SLIDES_SCHEMA)


def test_slides_with_planes_and_those_whose_planes_were_read_are_counted() -> None:
    slide = a_summary("a", "1")
    assert describe_planes(table()) is None
    assert describe_planes(table(slide, replace(slide, planes=1, planes_read=1))) is None
    sentence = describe_planes(
        table(slide, replace(slide, planes=5, planes_read=5), replace(slide, planes=9, planes_read=1))
    )
    assert sentence == "2 slides of 3 with 5 to 9 focus planes, which were read on 1"
