"""The demo: slides are painted, processed, queried, compared with the truth, and reported."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from fossilray.analysis.report import write_report
from fossilray.core.config import RunConfig
from fossilray.core.errors import ConfigError
from fossilray.core.formats import FileRole
from fossilray.core.formats.parquet import read_table
from fossilray.core.schemas import TRUTH_SCHEMA
from fossilray.core.text import format_percent
from fossilray.core.text_table import TextColumn, TextTable
from fossilray.jobs.process import run_job
from fossilray.jobs.progress import choose_display
from fossilray.jobs.run_items import JobResult
from fossilray.render.tables import print_table
from fossilray.store import RunStore
from fossilray.store.query.connection import run_query
from fossilray.synthetic.archive import (
    ARCHIVE_MPP,
    TRUTH_FILE,
    ArchiveRecipe,
    read_recipe,
    synthesise_archive,
)
from fossilray.synthetic.truth import TruthScore, score_against_truth

SEED = 1

CENSUS_SQL = """
SELECT well, measured_depth_m AS depth_m, count(*) AS objects,
       round(avg(greatest(width_um, height_um)), 1) AS mean_size_um,
       round(100 * avg((opacity > 0.4)::INTEGER), 1) AS dark_percent,
       round(100 * avg(isolated::INTEGER), 1) AS isolated_percent
FROM objects GROUP BY ALL ORDER BY well, depth_m
"""


def run_demo(
    folder: Path, *, slides: int, size_px: int, console: Console, config: RunConfig | None = None
) -> JobResult:
    """Write slides, a run and report.html into a folder, and print the census and its scores; the same call resumes.

    Raises:
        ConfigError: the folder holds a demo of other slides, or files that are not a demo's.
        FossilrayError: as of `run_job` and `write_report`.
    """
    archive, run, report = folder / "slides", folder / "run", folder / "report.html"
    settings = config or RunConfig()
    if os.path.lexists(report) and read_recipe(archive) is None:
        raise ConfigError(f"{report} is not the report of a demo and would be replaced; name another folder")
    with _step(console, f"1  Paint {slides} slides of {size_px} x {size_px} px"):
        _make_archive(archive, ArchiveRecipe(slides, size_px, "mrxs", SEED), console)
    with _step(console, "2  Process them: detect, merge, crop, measure, embed, commit"):
        result = run_job(str(archive), str(run), settings, address="local", display=choose_display(console))
        tally = result.tally
        console.print(
            f"{tally.already_committed + tally.committed} of {tally.total} slides committed"
            f" ({tally.already_committed} before), {tally.objects:,} new objects",
            highlight=False,
        )
        for failure in result.failures:
            console.print(f"[red]failed[/] {escape(failure.slide_id)}: {escape(failure.message)}")
    store = RunStore.open(str(run), settings.store)
    with _step(console, "3  Query with DuckDB: objects by well and depth"):
        print_table(run_query(store, CENSUS_SQL), console=console)
    with _step(console, "4  Compare with the truth, which was recorded while painting"):
        console.print(_render(_score(store, archive)))
    with _step(console, "5  Write the report"):
        write_report(store, report)
    _print_paths(console, folder)
    return result


@contextmanager
def _step(console: Console, title: str) -> Iterator[None]:
    console.print(f"\n[bold]{escape(title)}[/]", highlight=False)
    started_s = time.monotonic()
    yield
    console.print(f"[dim]{time.monotonic() - started_s:.1f} s[/]", highlight=False)


def _make_archive(archive: Path, recipe: ArchiveRecipe, console: Console) -> None:
    existing = read_recipe(archive)
    if existing == recipe:
        console.print("already painted")
        return
    if existing is not None:
        raise ConfigError(
            f"{archive} holds {existing.slides} slides of {existing.size_px} px painted by fossilray "
            f"{existing.version}; name another folder, or delete this one"
        )
    synthesise_archive(
        archive,
        slides=recipe.slides,
        size_px=recipe.size_px,
        form=recipe.form,
        seed=recipe.seed,
        console=console,
    )


def _score(store: RunStore, archive: Path) -> TruthScore:
    objects = run_query(store, "SELECT slide_id, x_min, y_min, x_max, y_max FROM objects")
    role = FileRole(
        str(archive / TRUTH_FILE), "the objects that were painted", "give another folder, or delete this one"
    )
    truth = read_table((archive / TRUTH_FILE).read_bytes(), role, schema=TRUTH_SCHEMA)
    return score_against_truth(objects, truth, iou=0.5, mpp=ARCHIVE_MPP)


def _render(score: TruthScore) -> TextTable:
    numbers = (TextColumn(name, is_number=True) for name in ("painted", "found", "recall", "precision"))
    table = TextTable("size", *numbers)
    classes = [(f"{low:g}-{high:g} um", scores) for (low, high), scores in score.by_size_um.items()]
    for name, scores in (*classes, (f"all, IoU {score.iou:g}", score)):
        table.add_row(
            name,
            f"{scores.true:,}",
            f"{scores.found:,}",
            format_percent(scores.recall, decimals=1),
            format_percent(scores.precision, decimals=1),
        )
    return table


def _print_paths(console: Console, folder: Path) -> None:
    run = shlex.quote(str(folder / "run"))
    lines = (
        ("report", str(folder / "report.html")),
        ("slides", f"{folder / 'slides'}, with {TRUTH_FILE}"),
        ("run", f"{folder / 'run'}: objects/ (Parquet), arrays/ (Zarr: crops and embeddings)"),
        (
            "query",
            f'fossilray query {run} "SELECT * FROM objects WHERE width_um > 100 ORDER BY score DESC LIMIT 10"',
        ),
        (
            "crops",
            f'fossilray crops {run} --where "opacity > 0.4" --out {shlex.quote(str(folder / "dark-crops"))}',
        ),
        ("serve", f"fossilray serve {run} --labels {shlex.quote(str(folder / 'labels'))}"),
        ("export", f"fossilray export {run} --format geojson --out {shlex.quote(str(folder / 'geojson'))}"),
    )
    console.print()
    for name, text in lines:
        console.print(f"[bold]{name:7}[/] {escape(text)}", highlight=False, soft_wrap=True)
