"""Draw the diagrams of docs/architecture.md as SVG into docs/pictures/; a test fails when they lag.

python docs/tools/draw_diagrams.py
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"

INK, QUIET, LINE, PAPER = "#1c2b33", "#5a6b73", "#8fa3ad", "#ffffff"
BLUE, GREEN, AMBER, GREY = "#dcebf3", "#dff0e1", "#fbeccb", "#eef1f3"

PURPOSE = {
    "cli": "commands",
    "jobs": "work on Ray: scheduler, jobs, submission",
    "serve": "pages in a browser, labels",
    "analysis": "results of a finished run",
    "evaluation": "published protocols",
    "processing": "one slide, scan to rows; no Ray",
    "training": "crops, methods, loop; no Ray",
    "slides": "find, open and read scans",
    "labels": "labels, and what to label next",
    "store": "the run directory, SQL",
    "models": "networks, heads, weights",
    "render": "pages, charts, sheets",
    "synthetic": "slides and their truth",
    "core": "types, records, schemas, errors, configuration; imports nothing of ours",
}


@dataclass
class Drawing:
    """Boxes, arrows and text on a white sheet."""

    width: int
    height: int
    title: str
    parts: list[str] = field(default_factory=list)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: int = 14,
        bold: bool = False,
        colour: str = INK,
        anchor: str = "middle",
    ) -> None:
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}>'
            f"{escape(text)}</text>"
        )

    def box(
        self, x: float, y: float, width: float, height: float, lines: Sequence[str], *, fill: str = BLUE
    ) -> None:
        """A box with a bold first line and quiet lines below it, centred."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{fill}" stroke="{LINE}"/>'
        )
        first = y + height / 2 + 5 - 8.5 * (len(lines) - 1)
        for number, line in enumerate(lines):
            bold = number == 0
            self.text(
                x + width / 2,
                first + 17 * number,
                line,
                size=13 if bold else 12,
                bold=bold,
                colour=INK if bold else QUIET,
            )

    def arrow(self, *points: tuple[float, float], dashed: bool = False, label: str = "") -> None:
        """A line with a head at its last point; the label stands above the middle of its first stretch."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{QUIET}" stroke-width="1.6" marker-end="url(#head)"{dash}/>'
        )
        if label:
            (x0, y0), (x1, y1) = points[:2]
            self.text((x0 + x1) / 2, min(y0, y1) - 7, label, size=12, colour=QUIET)

    def svg(self) -> str:
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" font-family="Helvetica, Arial, sans-serif" role="img">\n'
            f"<title>{escape(self.title)}</title>\n"
            f'<defs><marker id="head" markerWidth="9" markerHeight="9" refX="8" refY="4" orient="auto">'
            f'<path d="M0,0 L8,4 L0,8 z" fill="{QUIET}"/></marker></defs>\n'
            f'<rect width="{self.width}" height="{self.height}" fill="{PAPER}"/>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )


def main() -> None:
    """Write every diagram."""
    for name, text in diagrams().items():
        (PICTURES / name).write_text(text, encoding="utf-8")


def diagrams() -> dict[str, str]:
    """Each diagram by its file name."""
    return {
        "floors.svg": draw_floors(floors()),
        "slide.svg": draw_slide(),
        "label.svg": draw_label(),
        "commit.svg": draw_commit(),
    }


def floors() -> Sequence[Sequence[str]]:
    """Rooms by floor from the bottom, as the test of imports has them."""
    spec = importlib.util.spec_from_file_location("rooms", ROOT / "tests" / "project" / "test_floors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    table: Sequence[Sequence[str]] = module.FLOORS
    return table


def draw_floors(table: Sequence[Sequence[str]]) -> str:
    """Seven floors, the lowest at the bottom."""
    drawing = Drawing(900, 66 * len(table) + 40, "The thirteen packages of fossilray on seven floors")
    for number, rooms in enumerate(reversed(table)):
        y = 12 + 66 * number
        drawing.text(22, y + 33, str(len(table) - number), size=18, bold=True, colour=LINE)
        width = (840 - 12 * (len(rooms) - 1)) / len(rooms)
        for column, room in enumerate(rooms):
            fill = {0: AMBER, len(table) - 1: GREY}.get(number, BLUE)
            drawing.box(48 + column * (width + 12), y, width, 54, [f"{room}/", PURPOSE[room]], fill=fill)
    y = drawing.height - 14
    drawing.text(468, y, "A package imports from lower floors only.", size=13, colour=QUIET)
    return drawing.svg()


def draw_slide() -> str:
    """One slide, from the command to the commit."""
    drawing = Drawing(900, 344, "How a slide is processed")
    drawing.box(10, 20, 190, 60, ["cli/process", "options in, lines out"], fill=AMBER)
    drawing.box(236, 20, 190, 60, ["jobs/process", "which slides are left"])
    drawing.box(462, 20, 190, 60, ["jobs/scheduler", "workers as Ray actors"])
    drawing.box(700, 20, 190, 60, ["processing/worker", "one slide at a time"], fill=GREEN)
    for x in (200, 426, 652):
        drawing.arrow((x, 50), (x + (36 if x < 600 else 48), 50))
    drawing.parts.append(
        f'<rect x="10" y="120" width="880" height="108" rx="8" fill="none" stroke="{LINE}" stroke-dasharray="6 5"/>'
    )
    drawing.text(
        112, 142, "in the worker's process; pixels never leave it", size=12, colour=QUIET, anchor="start"
    )
    drawing.arrow((795, 80), (795, 104), (90, 104), (90, 158))
    steps = [
        ("slides/remote", "fetch if in a bucket"),
        ("slides", "open, check, read"),
        ("processing/detection", "passes, boxes, merge"),
        ("processing/crops", "cut, measure"),
        ("models/backbones", "embed"),
    ]
    width, gap = 162, 12
    for number, (name, what) in enumerate(steps):
        x = 22 + number * (width + gap)
        drawing.box(x, 158, width, 58, [name, what], fill=GREEN)
        if number:
            drawing.arrow((x - gap, 187), (x, 187))
    drawing.arrow((802, 216), (802, 268))
    drawing.box(722, 268, 160, 58, ["store/arrays", "crops and vectors"])
    drawing.arrow((722, 297), (600, 297), label="arrays first")
    drawing.box(380, 268, 220, 58, ["store/run: commit", "create objects/…/ID.parquet"], fill=AMBER)
    drawing.arrow((380, 297), (262, 297), label="rows are visible")
    drawing.box(62, 268, 200, 58, ["store/query", "SQL over committed slides"])
    return drawing.svg()


def draw_label() -> str:
    """One label, from a table to a range chart."""
    drawing = Drawing(900, 236, "How a label becomes a range chart")
    upper = [
        ("labels/importing", "a table of names", AMBER),
        ("labels/label_set", "one round per import", BLUE),
        ("labels/load", "current labels, vectors", BLUE),
        ("training/heads", "fit, calibrate", GREEN),
        ("models/heads", "head.safetensors", BLUE),
    ]
    lower = [
        ("analysis/stratigraphy", "counts, zones, chart", AMBER),
        ("store/query", "view predictions", BLUE),
        ("store/derived", "commit per slide", BLUE),
        ("processing/inference", "one slide's vectors", GREEN),
        ("jobs/inference", "work on Ray", BLUE),
    ]
    width, gap = 166, 13
    for number, (name, what, fill) in enumerate(upper):
        x = 10 + number * (width + gap)
        drawing.box(x, 20, width, 60, [name, what], fill=fill)
        if number:
            drawing.arrow((x - gap, 50), (x, 50))
    drawing.arrow((809, 80), (809, 150))
    for number, (name, what, fill) in enumerate(lower):
        x = 10 + number * (width + gap)
        drawing.box(x, 150, width, 60, [name, what], fill=fill)
        if number:
            drawing.arrow((x, 180), (x - gap, 180))
    return drawing.svg()


def draw_commit() -> str:
    """The commit: two workers with the same slide, of which one gets it."""
    drawing = Drawing(900, 400, "The commit protocol")
    columns = {"Attempt a1f3": 150, "Run directory": 450, "Attempt 9c07": 750}
    for name, x in columns.items():
        drawing.box(x - 90, 12, 180, 36, [name], fill=AMBER if name == "Run directory" else GREEN)
        drawing.parts.append(
            f'<line x1="{x}" y1="48" x2="{x}" y2="332" stroke="{LINE}" stroke-dasharray="3 4"/>'
        )

    def message(y: float, start: str, end: str, text: str, *, dashed: bool = False) -> None:
        x0, x1 = columns[start], columns[end]
        step = 6 if x1 > x0 else -6
        drawing.arrow((x0 + step, y), (x1 - step, y), dashed=dashed)
        drawing.text((x0 + x1) / 2, y - 7, text, size=12, colour=QUIET)

    first, run, second = columns
    message(84, first, run, "attempts/ID/a1f3.json")
    message(84, second, run, "attempts/ID/9c07.json")
    message(126, first, run, "arrays/ID/a1f3.zarr/…")
    message(126, second, run, "arrays/ID/9c07.zarr/…")
    message(172, first, run, "create objects/well=…/ID.parquet")
    message(202, run, first, "created: this is the commit", dashed=True)
    message(246, second, run, "create objects/well=…/ID.parquet")
    message(276, run, second, "exists; its footer names a1f3", dashed=True)
    message(318, second, run, "delete arrays/ID/9c07.zarr")
    drawing.text(
        450,
        356,
        "If a reply is lost, the attempt reads the footer: its own name there means success.",
        size=13,
        colour=INK,
    )
    drawing.text(
        450,
        376,
        "No locks, no renames: before the commit, readers see nothing of the slide; after it, all.",
        size=13,
        colour=INK,
    )
    return drawing.svg()


if __name__ == "__main__":
    main()
