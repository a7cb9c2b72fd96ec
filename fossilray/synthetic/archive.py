"""Synthetic archive: slides of invented wells, and a table of the true objects on them."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fossilray.core.atomic_files import atomic_file, cannot_write, write_atomically
from fossilray.core.errors import ConfigError, WorkerError
from fossilray.core.schemas import TRUTH_SCHEMA
from fossilray.core.slide_names import slide_id_for
from fossilray.core.version import __version__
from fossilray.synthetic.assemblage import Column, Sample
from fossilray.synthetic.scene import Scene
from fossilray.synthetic.writers.mirax import MiraxOptions, write_mirax
from fossilray.synthetic.writers.tiff import TiffOptions, write_pyramidal_tiff

TRUTH_FILE = "truth.parquet"
ARCHIVE_MPP = 0.25
"""um per level-0 px of every synthetic slide."""

_SMALLEST_SIDE_PX = 1024
_JITTER_PX = 8
_EARLIER = "earlier"
"""Key of the mark: recipes of what the folder held before, so that an interrupted call can be repeated."""
_MOST_EARLIER = 8
_MOST_SLIDES = 1_000_000
_RECIPE_KEY = b"fossilray.archive"
_MARK_FILE = ".fossilray-archive.json"
"""Name of the file that marks an archive as unfinished, until its truth is written."""
# A slide takes about 500 MB while it is drawn.
_MOST_PROCESSES = 8
# Fewer pixels are painted sooner than processes start.
_WORTH_PROCESSES_PX = 60_000_000


@dataclass(frozen=True)
class ArchiveRecipe:
    """Parameters that determine every byte of an archive."""

    slides: int
    size_px: int
    form: str
    seed: int
    version: str = __version__


def synthesise_archive(
    out: Path,
    *,
    slides: int,
    size_px: int,
    form: str,
    seed: int,
    console: Console | None = None,
) -> Path:
    """Write `slides` slides of size_px x size_px and `truth.parquet` beside them, and return the path of the truth.

    File names contain a well and a depth, as in real archives. Equal arguments give equal bytes. Large archives are
    painted in up to 8 processes. The truth is written last: it exists only in a complete archive.

    Raises:
        ConfigError: an argument is out of range, the folder cannot be created, or foreign files would be replaced.
        WorkerError: a painting process died.
        StoreError: the disk is full or fails.
    """
    recipe = ArchiveRecipe(slides, size_px, form, seed)
    if form not in ("mrxs", "tiff"):
        raise ConfigError(f"slides cannot be written as {form}; expected mrxs or tiff")
    if slides < 1 or size_px < _SMALLEST_SIDE_PX or seed < 0:
        raise ConfigError(
            f"slides is {slides}, size {size_px} and seed {seed}; expected at least 1, "
            f"at least {_SMALLEST_SIDE_PX} px and at least 0"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        _handle_result(out, recipe)
        (out / TRUTH_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"slides cannot be written to {out}: {error.strerror}; name another folder"
        ) from None
    try:
        tables = _draw_all(out, recipe, console)
    except OSError as error:
        raise cannot_write(out, error) from None
    metadata = {_RECIPE_KEY: json.dumps(asdict(recipe)).encode()}
    truth = pa.concat_tables(tables).replace_schema_metadata(metadata)
    with atomic_file(out / TRUTH_FILE) as sink:
        pq.write_table(truth, sink, compression="zstd")
    try:
        (out / _MARK_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(out / _MARK_FILE, error) from None
    return out / TRUTH_FILE


def _handle_result(out: Path, recipe: ArchiveRecipe) -> None:
    """Check that the archive may be written to a folder, and mark the folder as an unfinished archive.

    The mark allows a later call to replace the content.

    Raises:
        ConfigError: a file that would be replaced was not painted by fossilray.
    """
    finished = read_recipe(out)
    known = [*([] if finished is None else [finished]), *_marked_recipes(out)]
    painted = {name for other in known for name in _names(other)}
    foreign = [
        name
        for name in _names(recipe)
        if (out / name).is_symlink() or (os.path.lexists(out / name) and name not in painted)
    ]
    if finished is None and os.path.lexists(out / TRUTH_FILE):
        foreign.append(TRUTH_FILE)
    if foreign:
        raise ConfigError(
            f"{out / foreign[0]} was not painted by fossilray and would be replaced; name another folder"
        )
    earlier = [other for other in known if other != recipe]
    mark = {**asdict(recipe), _EARLIER: [asdict(other) for other in earlier[:_MOST_EARLIER]]}
    write_atomically(out / _MARK_FILE, json.dumps(mark))


def _names(recipe: ArchiveRecipe) -> list[str]:
    """Return the names of the files and folders of an archive's slides."""
    slides = [f"{sample.stem}.{recipe.form}" for sample in Column(recipe.seed).samples(recipe.slides)]
    return [*slides, *(name.removesuffix(".mrxs") for name in slides if recipe.form == "mrxs")]


def _marked_recipes(out: Path) -> list[ArchiveRecipe]:
    """Return the recipes of the unfinished archives that the mark of a folder names; none without a valid mark."""
    try:
        mark = json.loads((out / _MARK_FILE).read_bytes())
        recipes = [mark, *mark.pop(_EARLIER, [])]
    except (OSError, ValueError, RecursionError, AttributeError, TypeError):
        return []
    return [recipe for fields in recipes if (recipe := _parse_recipe(fields)) is not None]


def _parse_recipe(fields: object) -> ArchiveRecipe | None:
    if not isinstance(fields, dict) or fields.keys() - {"version"} != {"slides", "size_px", "form", "seed"}:
        return None
    slides, seed = fields["slides"], fields["seed"]
    if not (isinstance(slides, int) and 1 <= slides <= _MOST_SLIDES and isinstance(seed, int) and seed >= 0):
        return None
    return ArchiveRecipe(**fields)


def read_recipe(out: Path) -> ArchiveRecipe | None:
    """Return the recipe of the finished archive in a folder; None if there is no archive."""
    if not (out / TRUTH_FILE).is_file():
        return None
    try:
        stored = (pq.read_schema(out / TRUTH_FILE).metadata or {}).get(_RECIPE_KEY)
        return None if stored is None else _parse_recipe(json.loads(stored))
    except (pa.ArrowException, OSError, ValueError, TypeError, RecursionError):
        return None


def _draw_all(out: Path, recipe: ArchiveRecipe, console: Console | None) -> list[pa.Table]:
    """Paint all slides and return the truth of each, in the order of slides; `console` shows the progress."""
    progress = (
        nullcontext()
        if console is None
        else Progress(
            TextColumn("[bold]painting slides"),
            BarColumn(bar_width=36),
            MofNCompleteColumn(),
            TextColumn("{task.fields[details]}"),
            TimeElapsedColumn(),
            console=console,
        )
    )
    tables: list[pa.Table | None] = [None] * recipe.slides
    with progress as bar:
        task = None if bar is None else bar.add_task("slides", total=recipe.slides, details="")
        for slide, table in _draw_in_any_order(out, recipe):
            tables[slide] = table
            if bar is not None and task is not None:
                objects = sum(drawn.num_rows for drawn in tables if drawn is not None)
                bar.update(task, advance=1, details=f"{objects:,} objects")
    return [table for table in tables if table is not None]


def _draw_in_any_order(out: Path, recipe: ArchiveRecipe) -> Iterator[tuple[int, pa.Table]]:
    worth_it = recipe.slides * recipe.size_px**2 > _WORTH_PROCESSES_PX
    processes = min(recipe.slides, os.cpu_count() or 1, _MOST_PROCESSES) if worth_it else 1
    if processes == 1:
        for slide in range(recipe.slides):
            yield slide, _draw_slide(out, recipe, slide)
        return
    # Spawned, not forked: OpenCV's and Arrow's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_start_process) as pool:
        running = {pool.submit(_draw_slide, out, recipe, slide): slide for slide in range(recipe.slides)}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        except BrokenProcessPool:
            raise WorkerError(
                "a process that painted slides died; each needs about 0.7 GB, run the same command again"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_process() -> None:
    cv2.setNumThreads(1)
    # Ctrl-C reaches the whole group: a painter only ends, the parent reports it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _draw_slide(out: Path, recipe: ArchiveRecipe, slide: int) -> pa.Table:
    """Write one slide and return its truth in OpenSlide's frame."""
    column = Column(recipe.seed)
    sample = column.samples(recipe.slides)[slide]
    scene = Scene(
        column.assemblage(sample, slide=slide, slides=recipe.slides),
        width=recipe.size_px,
        height=recipe.size_px,
        um_per_px=ARCHIVE_MPP,
        seed=[recipe.seed, 5, slide],
    )
    if recipe.form == "mrxs":
        path = out / f"{sample.stem}.mrxs"
        layout = write_mirax(
            path,
            scene,
            MiraxOptions(
                mpp=ARCHIVE_MPP,
                jitter_px=_JITTER_PX,
                background_rgb=scene.background_rgb,
                seed=recipe.seed * 100_003 + slide,
            ),
        )
        offset = layout.offset_x, layout.offset_y
    else:
        path = out / f"{sample.stem}.tiff"
        write_pyramidal_tiff(path, scene, TiffOptions(mpp=ARCHIVE_MPP, background_rgb=scene.background_rgb))
        offset = 0, 0
    return _truth_table(scene, sample, slide_id_for(PurePosixPath(path.name)), offset)


def _truth_table(scene: Scene, sample: Sample, slide_id: str, offset: tuple[int, int]) -> pa.Table:
    # The photos of a MIRAX scanner may miss the rim by up to their jitter.
    objects = scene.objects(inset_px=_JITTER_PX if offset != (0, 0) else 0)
    x, y = offset
    rows = [
        {
            "slide_id": slide_id,
            "well": sample.well,
            "measured_depth_m": float(sample.depth_m),
            "object_id": number,
            "x_min": seen.box.x_min + x,
            "y_min": seen.box.y_min + y,
            "x_max": seen.box.x_max + x,
            "y_max": seen.box.y_max + y,
            "kind": seen.kind,
            "is_fossil": seen.is_fossil,
        }
        for number, seen in enumerate(objects)
    ]
    return pa.Table.from_pylist(rows, schema=TRUTH_SCHEMA)
