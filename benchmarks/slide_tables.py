"""What `slide.py` measured, as tables on the terminal and as plain values for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from slide_ways import Taken, Touched
from stored_tiles import StoredTile

from fossilray.synthetic.truth import SIZE_CLASSES_UM, TruthScore

MPP = 0.25


@dataclass(frozen=True)
class Way:
    """One way over one slide. whole, apart: a Taken a round; limits: of bare libjpeg, by which tiles."""

    name: str
    whole: list[Taken]
    score: TruthScore
    apart: list[Taken]
    touched: Touched | None
    limits: dict[str, list[Taken]]

    def read_and_crop_s(self) -> list[float]:
        """Seconds of CPU in each round for opening, reading what the detector sees, and cutting crops."""
        return [sum(taken.stages_cpu_s[name] for name in ("open", "read", "cut")) for taken in self.apart]


@dataclass(frozen=True)
class SlideReport:
    """Every way over one slide; the first is what the others are compared with."""

    name: str
    side_px: int
    true_objects: int
    file_bytes: int
    ways: list[Way]


@dataclass(frozen=True)
class TwoReport:
    """Two slides at once by two processes: seconds on the clock of each round, by way."""

    slides: list[str]
    wall_s: dict[str, list[float]]


@dataclass(frozen=True)
class Report:
    """All of it, with what it was measured on."""

    processor: str
    cores: int
    cache: str
    rounds: int
    paper_threads: int
    slides: list[SlideReport]
    two: TwoReport | None

    def plain(self) -> dict[str, Any]:
        """Numbers, lists and words alone; boxes and lists of stored tiles are left out."""
        record = {
            "processor": self.processor,
            "cores": self.cores,
            "cache": self.cache,
            "rounds": self.rounds,
            "paper_torch_threads": self.paper_threads,
            "two_at_once": None if self.two is None else asdict(self.two),
        }
        return {**record, "slides": [_plain_slide(slide) for slide in self.slides]}


def show(report: Report, console: Console) -> None:
    """Print everything."""
    console.print(
        f"\n{report.processor}, {report.cores} cores; page cache {report.cache}; rounds: {report.rounds}; "
        f"PyTorch's threads in the paper's procedure: {report.paper_threads}, in ours: 1"
    )
    for slide in report.slides:
        mm2 = (slide.side_px * MPP / 1000) ** 2
        console.rule(
            f"{slide.name}: {mm2:.0f} mm2, {slide.true_objects:,} objects, {slide.file_bytes / 1e6:.0f} MB, "
            f"{slide.file_bytes / slide.side_px**2:.2f} bytes a px"
        )
        console.print(_whole(slide))
        console.print(_sizes(slide))
        for way in slide.ways:
            if way.whole[0].stages_cpu_s or way.apart:
                console.print(_stages(way))
            if way.touched is not None:
                console.print(_limit(way, way.touched))
    if report.two is not None:
        console.rule("two slides at once, two processes")
        console.print(_two(report.two))


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median (least to most)."""
    shown = f"{median(values):.{digits}f}"
    return shown if len(values) == 1 else f"{shown} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def ratios(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """first / second, round by round."""
    return [a / b for a, b in zip(first, second, strict=True)]


def _whole(slide: SlideReport) -> Table:
    table = _table(
        "whole", "way", "clock s", "times", "CPU s", "times", "MP/s", "found", "recall", "precision"
    )
    first = slide.ways[0].whole
    for way in slide.ways:
        wall_s, cpu_s = [taken.wall_s for taken in way.whole], [taken.cpu_s for taken in way.whole]
        table.add_row(
            way.name,
            spread(wall_s),
            spread(ratios([taken.wall_s for taken in first], wall_s), 1),
            spread(cpu_s),
            spread(ratios([taken.cpu_s for taken in first], cpu_s), 1),
            f"{slide.side_px**2 / median(wall_s) / 1e6:.0f}",
            f"{way.score.found:,}",
            _share(way.score.recall),
            _share(way.score.precision),
        )
    return table


def _sizes(slide: SlideReport) -> Table:
    table = _table(
        "recall / precision by size", "longest side, um", "objects", *(way.name for way in slide.ways)
    )
    for low, high in SIZE_CLASSES_UM:
        scores = [way.score.by_size_um[low, high] for way in slide.ways]
        table.add_row(
            f"{low:.0f}-{high:.0f}",
            f"{scores[0].true:,}",
            *(f"{_share(score.recall)} / {_share(score.precision)}" for score in scores),
        )
    return table


def _stages(way: Way) -> Table:
    """Our stages run separately, and their times in the summary of the whole run."""
    timed = way.apart or way.whole
    columns: list[tuple[str, list[Taken], str]] = [
        ("CPU s", timed, "stages_cpu_s"),
        ("clock s", timed, "stages_wall_s"),
    ]
    if way.apart:
        columns.append(("clock s, in the whole", way.whole, "stages_wall_s"))
    remark = " (detect: less reading in CPU s, with it on the clock)" if way.apart else ""
    table = _table(f"{way.name}: stages{remark}", "stage", *(title for title, _, _ in columns))
    for name in dict.fromkeys([*timed[0].stages_cpu_s, *way.whole[0].stages_wall_s]):
        table.add_row(name, *(_stage(taken, kind, name) for _, taken, kind in columns))
    return table


def _stage(taken: list[Taken], kind: str, name: str) -> str:
    seconds = [getattr(round_, kind)[name] for round_ in taken if name in getattr(round_, kind)]
    return spread(seconds) if seconds else ""


def _limit(way: Way, touched: Touched) -> Table:
    table = _table(
        f"{way.name}: the limit, bare libjpeg",
        "stored JPEG tiles",
        "tiles",
        "MB",
        "decoded",
        "libjpeg, CPU s",
        "ours, CPU s",
        "times",
    )
    if not touched.direct:
        table.add_row("read by OpenSlide, not followed")
        return table
    read_s = [taken.stages_cpu_s["open"] + taken.stages_cpu_s["read"] for taken in way.apart]
    cut_s = [taken.stages_cpu_s["cut"] for taken in way.apart]
    rows: list[tuple[str, list[StoredTile], int | None, str, list[float] | None]] = [
        ("of detection", touched.detect, touched.decodes_detect, "detect", read_s),
        ("of crops", touched.crops, touched.decodes_crops, "crops", cut_s),
        (
            "of both, each once",
            touched.both,
            touched.decodes_detect + touched.decodes_crops,
            "both",
            way.read_and_crop_s(),
        ),
        ("all of level 0, as (a) reads", touched.full, None, "full", None),
    ]
    for label, tiles, decodes, part, ours_s in rows:
        limit_s = [taken.cpu_s for taken in way.limits[part]]
        table.add_row(
            label,
            f"{len(tiles):,}",
            f"{_megabytes(tiles):.1f}",
            "" if decodes is None else f"{decodes:,}",
            spread(limit_s),
            "" if ours_s is None else spread(ours_s),
            "" if ours_s is None else spread(ratios(ours_s, limit_s)),
        )
    return table


def _two(two: TwoReport) -> Table:
    table = _table(" and ".join(two.slides), "way", "clock s", "slides/h", "times")
    first = next(iter(two.wall_s.values()))
    for name, wall_s in two.wall_s.items():
        table.add_row(
            name,
            spread(wall_s),
            f"{len(two.slides) * 3600 / median(wall_s):.0f}",
            spread(ratios(first, wall_s), 1),
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=number == 0)
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _megabytes(tiles: Sequence[StoredTile]) -> float:
    return sum(length for _, _, length in tiles) / 1e6


def _plain_slide(slide: SlideReport) -> dict[str, Any]:
    record = {"name": slide.name, "side_px": slide.side_px, "true_objects": slide.true_objects}
    return {**record, "file_bytes": slide.file_bytes, "ways": [_plain_way(way) for way in slide.ways]}


def _plain_way(way: Way) -> dict[str, Any]:
    touched = way.touched
    return {
        "name": way.name,
        "score": _plain_score(way.score)
        | {
            "by_size_um": [
                {"from": low, "to": high} | _plain_score(score)
                for (low, high), score in way.score.by_size_um.items()
            ]
        },
        "whole": [_plain_taken(round_) for round_ in way.whole],
        "apart": [_plain_taken(round_) for round_ in way.apart],
        "libjpeg": {part: [_plain_taken(round_) for round_ in taken] for part, taken in way.limits.items()},
        "stored_tiles": touched
        and {
            "followed": touched.direct,
            "decodes_detect": touched.decodes_detect,
            "decodes_crops": touched.decodes_crops,
            **{
                part: {"tiles": len(tiles), "bytes": sum(length for *_, length in tiles)}
                for part, tiles in (
                    ("detect", touched.detect),
                    ("crops", touched.crops),
                    ("both", touched.both),
                    ("full", touched.full),
                )
            },
        },
    }


def _plain_score(score: TruthScore) -> dict[str, Any]:
    return {
        "true": score.true,
        "found": score.found,
        "recall": score.recall,
        "precision": score.precision,
    }


def _plain_taken(taken: Taken) -> dict[str, Any]:
    return {
        "cpu_s": taken.cpu_s,
        "wall_s": taken.wall_s,
        "stages_cpu_s": taken.stages_cpu_s,
        "stages_wall_s": taken.stages_wall_s,
    }
