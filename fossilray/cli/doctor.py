"""Commands about the installation: its parts, its version, its default configuration."""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Annotated, Literal

import numpy as np
import typer
from rich.text import Text

from fossilray.cli.output import out, print_line
from fossilray.core.config import DetectorConfig, EmbedderConfig
from fossilray.core.errors import FossilrayError
from fossilray.core.text_table import TextTable
from fossilray.core.version import __version__

SCRATCH_GB = 10.0
"""Space for a few staged slides of about 2 GB each."""


def _print_version(requested: bool) -> None:
    if requested:
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
    """Options of the program itself."""


def print_config() -> None:
    """Print the default configuration as YAML with comments."""
    from fossilray.core.config import default_yaml

    sys.stdout.write(default_yaml())


def doctor() -> None:
    """Check the installation: Ray, torch, CUDA, OpenSlide, codecs, weights, scratch space."""
    checks = examine()
    out.print(render_checks(checks))
    if any(check.status == "broken" for check in checks):
        raise typer.Exit(1)


def version() -> None:
    """Print the version and the licence."""
    print_line(f"fossilray {__version__}, AGPL-3.0-or-later")


@dataclass(frozen=True)
class InstallationCheck:
    """The result for one part of the installation."""

    subject: str
    status: Literal["ok", "note", "broken"]
    detail: str


def examine() -> list[InstallationCheck]:
    """Check every part that a run needs; each is used where that takes no longer than seconds."""
    return [
        _checked("python and cores", _python),
        _checked("ray", _ray),
        _checked("torch", _torch),
        _checked("CUDA", _cuda),
        _checked("OpenCV", _opencv),
        _checked("OpenSlide", _openslide),
        _checked("JPEG codec", _jpeg),
        _checked("Zarr crops codec", _zarr),
        _checked("DuckDB", _duckdb),
        _checked("detector weights", _detector),
        _checked("embedder weights", _embedder),
        _checked("scratch space", _scratch),
    ]


def render_checks(checks: list[InstallationCheck]) -> TextTable:
    """Return the results as a table for the terminal."""
    colours = {"ok": "green", "note": "yellow", "broken": "red"}
    table = TextTable("part", "status", "details", title="fossilray doctor")
    for check in checks:
        table.add_row(check.subject, Text(check.status, style=colours[check.status]), check.detail)
    return table


def _checked(subject: str, check: Callable[[], InstallationCheck]) -> InstallationCheck:
    try:
        return check()
    except (ImportError, OSError, RuntimeError, ValueError, metadata.PackageNotFoundError) as error:
        return InstallationCheck(
            subject, "broken", f"{type(error).__name__}: {error}; reinstall with `pip install -U fossilray`"
        )
    except FossilrayError as error:
        return InstallationCheck(subject, "broken", str(error))


def _python() -> InstallationCheck:
    import platform

    return InstallationCheck(
        "python and cores", "ok", f"Python {platform.python_version()}, {os.cpu_count()} cores"
    )


def _ray() -> InstallationCheck:
    return InstallationCheck(
        "ray", "ok", f"ray {metadata.version('ray')}, usage statistics off in every fossilray command"
    )


def _torch() -> InstallationCheck:
    import torch
    import torchvision

    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    return InstallationCheck(
        "torch", "ok", f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    )


def _cuda() -> InstallationCheck:
    import torch

    if not torch.cuda.is_available():
        return InstallationCheck(
            "CUDA", "note", "no GPU; slides are processed on the CPU, several times slower"
        )
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return InstallationCheck("CUDA", "ok", names)


def _opencv() -> InstallationCheck:
    try:
        import cv2
    except ImportError as error:
        remedy = (
            "on a machine without a screen: pip install --force-reinstall --no-deps opencv-python-headless"
        )
        return InstallationCheck("OpenCV", "broken", f"{error}; {remedy}")
    return InstallationCheck("OpenCV", "ok", f"cv2 {cv2.__version__}")


def _openslide() -> InstallationCheck:
    from fossilray.slides.slide_handle import library_version

    return InstallationCheck("OpenSlide", "ok", f"OpenSlide {library_version()}")


def _jpeg() -> InstallationCheck:
    import simplejpeg

    image = np.full((64, 64, 3), 200, np.uint8)
    decoded = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(image, quality=90))
    if decoded.shape != image.shape:
        return InstallationCheck(
            "JPEG codec", "broken", "a decoded JPEG has another shape than the image; reinstall simplejpeg"
        )
    return InstallationCheck("JPEG codec", "ok", f"simplejpeg {metadata.version('simplejpeg')}")


def _zarr() -> InstallationCheck:
    names = [point.name for point in metadata.entry_points(group="zarr.codecs")]
    if "fossilray.jpeg" not in names:
        return InstallationCheck(
            "Zarr crops codec",
            "note",
            "entry point fossilray.jpeg missing: other programs must import fossilray_jpeg",
        )
    return InstallationCheck(
        "Zarr crops codec", "ok", f"zarr {metadata.version('zarr')}, entry point fossilray.jpeg"
    )


def _duckdb() -> InstallationCheck:
    import duckdb
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table({"n": [1, 2]}), file)
    connection = duckdb.connect()
    with pq.ParquetFile(file) as parquet:
        connection.register("numbers", parquet.read(use_threads=False))
    total = connection.execute("select sum(n) from numbers").fetchone()
    return InstallationCheck("DuckDB", "ok" if total == (3,) else "broken", f"duckdb {duckdb.__version__}")


def _detector() -> InstallationCheck:
    from fossilray.models.detectors.load import load_detector

    detector = load_detector(DetectorConfig(), device="cpu")
    boxes = detector.detect(np.full((1, 256, 256, 3), 230, np.uint8), um_per_px=1.0)
    return InstallationCheck(
        "detector weights", "ok", f"bundled detector loads and runs ({len(boxes[0])} boxes in an empty image)"
    )


def _embedder() -> InstallationCheck:
    from fossilray.models.backbones.load import load_embedder

    embedder = load_embedder(EmbedderConfig(), device="cpu")
    if embedder is None:
        return InstallationCheck("embedder weights", "note", "no embedder configured")
    return InstallationCheck(
        "embedder weights", "ok", f"{embedder.name}, {embedder.dimension} numbers per crop"
    )


def _scratch() -> InstallationCheck:
    folder = tempfile.gettempdir()
    free_gb = shutil.disk_usage(folder).free / 1e9
    status: Literal["ok", "note"] = "ok" if free_gb > SCRATCH_GB else "note"
    return InstallationCheck("scratch space", status, f"{free_gb:.0f} GB free in {folder} (TMPDIR)")
