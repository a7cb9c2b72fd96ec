"""Slides and run in S3: the worker leaves what it leaves for the same slides on a disk, and nothing on its own."""

# ruff: noqa: F811 (fixtures are imported by the name that tests use)

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from support.focus_stacks import paint_stack, write_ndpi, write_svs
from support.remote_slides import upload
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)
from support.slides_on_disk import write_slide

from fossilray.core.config import RunConfig, StoreConfig, load_config
from fossilray.core.records import CatalogRow, WorkItem
from fossilray.processing.worker import SlideWorker
from fossilray.slides.catalog import find_slides
from fossilray.store import RunStore
from fossilray.store.run.run_record import describe_run

CLASSICAL = (
    "detector.kind=classical",
    "detector.classical.min_area_um2=100",
    "embedder.weights=none",
)


def test_slides_in_s3_give_what_they_give_on_a_disk(tmp_path: Path, s3_run: tuple[str, StoreConfig]) -> None:
    url, access = s3_run
    for name in ("a", "b"):
        write_slide(tmp_path / "slides" / f"{name}.mrxs", size=1100 + 10 * ord(name))
    upload(tmp_path / "slides", f"{url}/slides", access)
    config = load_config(None, [*CLASSICAL, f"slides.scratch={tmp_path / 'scratch'}"])
    near = process(f"{tmp_path}/run", find_slides(str(tmp_path / "slides")).rows, config)
    config = config.model_copy(update={"store": access})
    far = process(f"{url}/run", find_slides(f"{url}/slides", access=access).rows, config)
    assert sorted(far) == ["a", "b"]
    for slide_id, (objects, fetched_s) in far.items():
        assert objects.drop_columns(["arrays"]).equals(near[slide_id][0].drop_columns(["arrays"]))
        assert len(objects)
        assert fetched_s >= 0
    for folder in (tmp_path / "scratch").iterdir():
        assert not list(folder.iterdir())


def test_focus_planes_of_slides_in_s3_are_read(tmp_path: Path, s3_run: tuple[str, StoreConfig]) -> None:
    url, access = s3_run
    painted = paint_stack(512, planes=3, step_um=10.0, objects=9)
    folder = tmp_path / "slides"
    folder.mkdir()
    write_ndpi(folder / "a.ndpi", painted, levels=1, depths_um=[-10, 0, 10])
    write_svs(folder / "b.svs", painted)
    upload(folder, f"{url}/slides", access)
    config = load_config(None, [*CLASSICAL, f"slides.scratch={tmp_path / 'scratch'}", "slides.planes=best"])
    near = process(f"{tmp_path}/run", find_slides(str(folder)).rows, config)
    config = config.model_copy(update={"store": access})
    far = process(f"{url}/run", find_slides(f"{url}/slides", access=access).rows, config)
    assert sorted(far) == ["a.ndpi", "b.svs"]
    for slide_id, (objects, _) in far.items():
        assert objects.drop_columns(["arrays"]).equals(near[slide_id][0].drop_columns(["arrays"]))
        assert set(objects["focus_plane"].to_pylist()) == {0, 1, 2}


def process(run: str, rows: list[CatalogRow], config: RunConfig) -> dict[str, tuple[pa.Table, float]]:
    """Each slide's objects and the seconds it was waited for."""
    store = RunStore.open(run, config.store)
    store.create_or_check(describe_run(config, {}))
    worker = SlideWorker(run, config)
    worker.prepare()
    items = list(map(WorkItem.of_slide, rows))
    for item, upcoming in zip(items, [*items[1:], None], strict=True):
        assert worker.process(item, upcoming).failure is None
    waited = {summary.slide_id: summary.seconds_fetch for summary in store.summaries()}
    files = {path.rpartition("/")[2].removesuffix(".parquet"): path for path in store.files.find("objects")}
    return {
        slide_id: (pq.read_table(pa.BufferReader(store.files.read(path))), waited[slide_id])
        for slide_id, path in files.items()
    }
