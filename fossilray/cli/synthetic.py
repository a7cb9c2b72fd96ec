"""Commands that make synthetic slides, alone or with a whole run over them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fossilray.cli.options import SeedOption, SlidesCountOption, SlideSizeOption, outside_runs
from fossilray.cli.output import out, print_line

SlideForm = Literal["mrxs", "tiff"]


def synth(
    out_dir: Annotated[
        Path,
        typer.Argument(metavar="OUT", callback=outside_runs, help="Folder for the slides and truth.parquet."),
    ],
    slides: SlidesCountOption = 6,
    size: SlideSizeOption = 12288,
    slide_format: Annotated[
        SlideForm, typer.Option("--slide-format", help="File format of the slides.")
    ] = "mrxs",
    seed: SeedOption = 1,
) -> None:
    """Write synthetic palynology slides and a table of every object on them."""
    from fossilray.synthetic.archive import synthesise_archive

    truth = synthesise_archive(
        out_dir, slides=slides, size_px=size, form=slide_format, seed=seed, console=out
    )
    print_line(f"{slides} slides and {truth.name} -> {out_dir}")


def demo(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Folder for slides, run and report.")
    ] = Path("fossilray-demo"),
    slides: SlidesCountOption = 6,
    size: SlideSizeOption = 12288,
) -> None:
    """Make synthetic slides, process them, compare the objects with the truth, and write the report; offline."""
    from fossilray.cli.demo import run_demo

    run_demo(folder, slides=slides, size_px=size, console=out)
