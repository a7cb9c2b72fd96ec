"""The dry run of a catalog: what the table states, by which the work will go."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from support.slides_on_disk import write_slide

from fossilray.core.config import RunConfig, SlidesConfig, TilingConfig
from fossilray.core.errors import CatalogError
from fossilray.processing.planning.dry_run import RunPlan, plan_run, render_plan
from fossilray.slides.catalog import find_slides
from fossilray.store import RunStore
from fossilray.store.run.run_record import describe_run

CONFIG = RunConfig(slides=SlidesConfig(), tiling=TilingConfig(tile_px=512))


def rendered(plan: RunPlan) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(render_plan(plan))
    return out.getvalue()


def list_slides(folder: Path, mpp: str) -> str:
    path = folder / "list.csv"
    path.write_text(f"slide_id;path;mpp\na;brÃ¸nn.mrxs;{mpp}\n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    write_slide(folder / "brønn.mrxs", size=1024)
    return folder


@pytest.mark.parametrize(("mpp", "shown"), [("0,5", "0.5 (catalog)"), ("0,25", "0.25"), ("", "0.25")])
def test_the_resolution_is_that_of_the_catalog_with_its_source(folder: Path, mpp: str, shown: str) -> None:
    plan = plan_run(list_slides(folder, mpp), str(folder / "run"), CONFIG)
    assert f" {shown} " in rendered(plan)
    assert (
        "line 2: path 'brÃ¸nn.mrxs' is read as 'brønn.mrxs', where a slide is; correct the table"
        in rendered(plan)
    )
    assert plan.slides[0].row.width is not None


def test_a_run_that_is_resumed_keeps_its_resolution_or_refuses_another(folder: Path, tmp_path: Path) -> None:
    store = RunStore.open(str(tmp_path / "run"))
    store.create_or_check(describe_run(CONFIG, {}))
    store.freeze_catalog(find_slides(list_slides(folder, "0,5")).rows)
    plan = plan_run(list_slides(folder, ""), str(tmp_path / "run"), CONFIG)
    assert (plan.slides[0].row.mpp, plan.slides[0].row.mpp_from) == (0.5, "catalog")
    with pytest.raises(CatalogError, match=r"slide a: mpp is 0.5 in this run and 0.4 in the catalog now"):
        plan_run(list_slides(folder, "0,4"), str(tmp_path / "run"), CONFIG)
