"""One slide: the paper's procedure, ours, and the limit that decoding sets, side by side.

python benchmarks/slide.py [--work DIR] [--side-px 32768] [--rounds 3] [--json FILE] [--quick]

Synthetic slides of 32,768 px a side at 0.25 um per px, dense and sparse, each as MIRAX with overlapping photos (the
headline), as MIRAX without overlaps and as tiled TIFF; painted once into --work. On each, in rounds that take turns:

(a) the paper's procedure, written plainly from its text (`paper_procedure.py`); it stores nothing;
(b) a worker of ours with two reading threads, from opening to the commit of the run's files: with the default
    settings, and with one pass at 2 um per px as for a survey; no embedder. Its stages also apart;
(c) bare libjpeg over exactly the stored JPEG tiles that (b) reads, each once, and over all of level 0.

On the dense MIRAX slide also (b) with the bundled embedder, and on two such slides (a) and (b) with two processes.
Every way runs in a process of its own that is warm; the slide is opened again each time, its files in the page cache
(or not: --cold). Seconds are medians over the rounds with the least and the most; ratios are those of one round.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console
from slide_tables import Report, SlideReport, TwoReport, Way, show
from slide_ways import (
    CORNERS,
    Taken,
    list_touched,
    run_libjpeg,
    run_ours,
    run_ours_apart,
    run_paper,
    warm_up_ours,
    warm_up_paper,
)
from slides_made import JPEG_QUALITY, Density, Form, MadeSlide, SlideKind, make_slides

from fossilray.core.config import RunConfig
from fossilray.synthetic.truth import TruthScore, score_against_truth

FORMS: tuple[Form, ...] = ("overlapping", "aligned", "tiff")
DENSITIES: tuple[Density, ...] = ("dense", "sparse")
PAPER = "paper"
OURS = "ours"
SURVEY = "ours, survey"
EMBEDDED = "ours, embedder"
SURVEY_PASSES = [{"um_per_px": 2.0, "largest_um": 500}]

_WARM_UP_PX = 4096
_QUICK_SIDE_PX = 8192


def main(
    work: Annotated[
        Path | None, typer.Option(help="Folder for the slides, reused when they are there.")
    ] = None,
    side_px: Annotated[int, typer.Option(help="Side of the slides in level-0 px.")] = 32_768,
    rounds: int = 3,
    form: Annotated[
        list[str] | None, typer.Option(help="Only these forms: overlapping, aligned, tiff.")
    ] = None,
    density: Annotated[list[str] | None, typer.Option(help="Only these: dense, sparse.")] = None,
    jpeg_quality: Annotated[
        int, typer.Option(help="Of the slides; see slides_made.py for the default.")
    ] = JPEG_QUALITY,
    cold: Annotated[
        bool, typer.Option("--cold", help="Make the system forget the slide's files first.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every figure there.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Slides of 8,192 px, some minutes in all.")] = False,
) -> None:
    """Measure and print."""
    console = Console()
    side_px = min(side_px, _QUICK_SIDE_PX) if quick else side_px
    forms = [name for name in FORMS if form is None or name in form]
    densities = [name for name in DENSITIES if density is None or name in density]
    with tempfile.TemporaryDirectory(prefix="fossilray-slide-") as scratch:
        folder = work or Path(scratch) / "slides"
        kinds = [
            SlideKind(name, dense, side_px, jpeg_quality=jpeg_quality)
            for dense in densities
            for name in forms
        ]
        pair = [SlideKind("overlapping", "dense", side_px, seed, jpeg_quality) for seed in (1, 2)]
        paired = set(pair[:1]) <= set(kinds)
        warm_up = SlideKind("overlapping", "dense", min(_WARM_UP_PX, side_px))
        console.print(f"painting slides into {folder} unless they are there …")
        wanted = list(dict.fromkeys([warm_up, *kinds, *(pair if paired else [])]))
        made = dict(zip(wanted, make_slides(folder, wanted, processes=os.cpu_count() or 1), strict=True))
        bench = Bench(Path(scratch), made[warm_up], rounds=rounds, cold=cold, report=console.print)
        with bench.processes():
            slides = [bench.measure(made[kind], embedded=paired and kind == pair[0]) for kind in kinds]
            two = bench.measure_two([made[kind] for kind in pair]) if paired else None
    report = Report(
        processor=_processor(),
        cores=os.cpu_count() or 1,
        cache="cold" if cold else "warm",
        rounds=rounds,
        paper_threads=bench.paper_threads,
        slides=slides,
        two=two,
    )
    show(report, console)
    if json_file is not None:
        json_file.write_text(json.dumps(report.plain(), indent=1) + "\n")


class Bench:
    """The ways, each with processes of its own, and the rounds in which they take turns."""

    def __init__(
        self, scratch: Path, warm_up: MadeSlide, *, rounds: int, cold: bool, report: Callable[[str], None]
    ) -> None:
        self._scratch = scratch
        self._warm_up = warm_up
        self._rounds = rounds
        self._cold = cold
        self._report = report
        self._count = 0
        self.paper_threads = 0
        self._configs = {
            OURS: settings(),
            SURVEY: settings(passes=SURVEY_PASSES),
            EMBEDDED: settings(embedder="bundled"),
        }

    @contextmanager
    def processes(self) -> Iterator[None]:
        """Two processes for each side, started when first needed; not forked, for threads do not survive that."""
        context = multiprocessing.get_context("spawn")
        with ExitStack() as stack:
            self._pools = {
                (side, number): stack.enter_context(ProcessPoolExecutor(1, mp_context=context))
                for side in (PAPER, OURS)
                for number in (0, 1)
            }
            self._warm: set[tuple[str, int]] = set()
            yield

    def measure(self, slide: MadeSlide, *, embedded: bool) -> SlideReport:
        """All ways over one slide, in turns."""
        names = [PAPER, OURS, SURVEY, *([EMBEDDED] if embedded else [])]
        ours = names[1:3]
        for name in names:
            self._prepare(name, 0)
        touched = {
            name: self._pools[OURS, 0].submit(list_touched, slide.path, self._configs[name]).result()
            for name in ours
        }
        whole: dict[str, list[Taken]] = {name: [] for name in names}
        apart: dict[str, list[Taken]] = {name: [] for name in ours}
        limits: dict[str, dict[str, list[Taken]]] = {name: {} for name in ours}
        for number in range(self._rounds):
            self._report(f"{slide.kind.name}: round {number + 1} of {self._rounds}")
            for name in names:
                whole[name].append(self._whole(name, slide, 0).result())
            for name in ours:
                self._set_cache(slide)
                apart[name].append(
                    self._pools[OURS, 0]
                    .submit(run_ours_apart, slide.path, self._configs[name], self._run(name, 0))
                    .result()
                )
                for part in ("detect", "crops", "both", "full"):
                    self._set_cache(slide)
                    job = self._pools[OURS, 0].submit(run_libjpeg, getattr(touched[name], part))
                    limits[name].setdefault(part, []).append(job.result())
        truth = pq.read_table(slide.truth)
        return SlideReport(
            name=slide.kind.name,
            side_px=slide.kind.side_px,
            true_objects=truth.num_rows,
            file_bytes=sum(file.stat().st_size for file in slide.files),
            ways=[
                Way(
                    name,
                    taken,
                    score(taken[-1], truth),
                    apart.get(name, []),
                    touched.get(name),
                    limits.get(name, {}),
                )
                for name, taken in whole.items()
            ],
        )

    def measure_two(self, slides: Sequence[MadeSlide]) -> TwoReport:
        """Two slides at once by two processes of a way, as the whole machine does them; seconds on the clock."""
        names = [PAPER, OURS, SURVEY]
        wall_s: dict[str, list[float]] = {name: [] for name in names}
        for name in names:
            self._prepare(name, 0)
            self._prepare(name, 1)
        for number in range(self._rounds):
            self._report(f"two slides at once: round {number + 1} of {self._rounds}")
            for name in names:
                for slide in slides:
                    self._set_cache(slide)
                began_s = time.perf_counter()
                jobs = [self._whole(name, slide, lane, cache_set=True) for lane, slide in enumerate(slides)]
                for job in jobs:
                    job.result()
                wall_s[name].append(time.perf_counter() - began_s)
        return TwoReport([slide.kind.name for slide in slides], wall_s)

    def _whole(self, name: str, slide: MadeSlide, lane: int, *, cache_set: bool = False) -> Any:
        if not cache_set:
            self._set_cache(slide)
        if name == PAPER:
            return self._pools[PAPER, lane].submit(run_paper, slide.path)
        self._count += 1
        slide_id = f"{slide.kind.name}-{self._count}"
        return self._pools[OURS, lane].submit(run_ours, slide.path, slide_id, self._run(name, lane))

    def _prepare(self, name: str, lane: int) -> None:
        """Load the models in the process and run them once."""
        if (name, lane) in self._warm:
            return
        if name == PAPER:
            self.paper_threads = self._pools[PAPER, lane].submit(warm_up_paper, self._warm_up.path).result()
        else:
            warm_up = self._pools[OURS, lane].submit(
                warm_up_ours, self._warm_up.path, self._configs[name], self._run(name, lane)
            )
            warm_up.result()
        self._warm.add((name, lane))

    def _run(self, name: str, lane: int) -> Path:
        return self._scratch / "runs" / f"{name.replace(', ', '-')}-{lane}"

    def _set_cache(self, slide: MadeSlide) -> None:
        for path in slide.files:
            with path.open("rb") as file:
                if self._cold:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                else:
                    while file.read(1 << 20):
                        pass


def settings(*, embedder: str = "none", passes: list[dict[str, float]] | None = None) -> RunConfig:
    """The default configuration but for what is given."""
    chosen: dict[str, Any] = {"embedder": {"weights": embedder}, "slides": {"read_threads": 2}}
    if passes is not None:
        chosen["detector"] = {"passes": passes}
    return RunConfig.model_validate(chosen)


def score(taken: Taken, truth: pa.Table) -> TruthScore:
    """What was found, compared with the slide's truth at IoU 0.5."""
    name = truth.column("slide_id")[0].as_py() if truth.num_rows else ""
    columns: dict[str, Any] = {"slide_id": pa.array([name] * len(taken.xyxy), pa.string())}
    columns |= {corner: taken.xyxy[:, column] for column, corner in enumerate(CORNERS)}
    return score_against_truth(pa.table(columns), truth)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


if __name__ == "__main__":
    typer.run(main)
