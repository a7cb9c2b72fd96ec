"""Commands about the installation."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fossilray import __version__
from fossilray.cli.options import out


def _print_version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


def global_options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and the licence."
        ),
    ] = False,
) -> None:
    """From scanned palynology slides to a census of microfossils."""


def print_config() -> None:
    """Print the default configuration as YAML with comments."""
    from fossilray.core.config import default_yaml

    sys.stdout.write(default_yaml())


def doctor() -> None:
    """Check the installation: Ray, torch, CUDA, OpenSlide, codecs, weights, scratch space."""
    from fossilray.cli.doctor_doctor import examine, render

    findings = examine()
    out.print(render(findings))
    if any(finding.verdict == "broken" for finding in findings):
        raise typer.Exit(1)


def version() -> None:
    """Print the version and the licence."""
    out.print(f"fossilray {__version__}, AGPL-3.0-or-later", markup=False, highlight=False, soft_wrap=True)
