"""Commands about the installation."""

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

from fossilray import __version__
from fossilray.cli.options import out
from fossilray.core.config import DetectorConfig, EmbedderConfig
from fossilray.core.errors import FossilrayError
from fossilray.core.text_table import TextTable


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
    pass

    findings = examine()
    out.print(render(findings))
    if any(finding.verdict == "broken" for finding in findings):
        raise typer.Exit(1)


def version() -> None:
    """Print the version and the licence."""
    out.print(f"fossilray {__version__}, AGPL-3.0-or-later", markup=False, highlight=False, soft_wrap=True)


SCRATCH_GB = 10.0
"""Room for a few staged slides of about 2 GB each."""


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    subject: str
    verdict: Literal["ok", "note", "broken"]
    detail: str


def examine() -> list[Finding]:
    """Everything a run needs, tried for real where that takes seconds."""
    return [
        _tried("python and cores", _python),
        _tried("ray", _ray),
        _tried("torch", _torch),
        _tried("CUDA", _cuda),
        _tried("OpenCV", _opencv),
        _tried("OpenSlide", _openslide),
        _tried("JPEG codec", _jpeg),
        _tried("Zarr crops codec", _zarr),
        _tried("DuckDB", _duckdb),
        _tried("detector weights", _detector),
        _tried("embedder weights", _embedder),
        _tried("scratch space", _scratch),
    ]


def render(findings: list[Finding]) -> TextTable:
    """The findings as a table for the terminal."""
    colours = {"ok": "green", "note": "yellow", "broken": "red"}
    table = TextTable("part", "verdict", "what was found", title="fossilray doctor")
    for finding in findings:
        verdict = Text(finding.verdict, style=colours[finding.verdict])
        table.add_row(finding.subject, verdict, finding.detail)
    return table


def _tried(subject: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except (ImportError, OSError, RuntimeError, ValueError, metadata.PackageNotFoundError) as error:
        return Finding(
            subject, "broken", f"{type(error).__name__}: {error}; reinstall with `pip install -U fossilray`"
        )
    except FossilrayError as error:
        return Finding(subject, "broken", str(error))


def _python() -> Finding:
    import platform

    return Finding("python and cores", "ok", f"Python {platform.python_version()}, {os.cpu_count()} cores")


def _ray() -> Finding:
    return Finding(
        "ray", "ok", f"ray {metadata.version('ray')}, usage statistics off in every fossilray command"
    )


def _torch() -> Finding:
    import torch
    import torchvision

    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    return Finding("torch", "ok", f"torch {torch.__version__}, torchvision {torchvision.__version__}")


def _cuda() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("CUDA", "note", "no GPU; slides are processed on the CPU, several times slower")
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return Finding("CUDA", "ok", names)


def _opencv() -> Finding:
    try:
        import cv2
    except ImportError as error:
        remedy = (
            "on a machine without a screen: pip install --force-reinstall --no-deps opencv-python-headless"
        )
        return Finding("OpenCV", "broken", f"{error}; {remedy}")
    return Finding("OpenCV", "ok", f"cv2 {cv2.__version__}")


def _openslide() -> Finding:
    from fossilray.slides.slide import library_version

    return Finding("OpenSlide", "ok", f"OpenSlide {library_version()}")


def _jpeg() -> Finding:
    import simplejpeg

    image = np.full((64, 64, 3), 200, np.uint8)
    back = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(image, quality=90))
    if back.shape != image.shape:
        return Finding("JPEG codec", "broken", "a JPEG came back in another shape; reinstall simplejpeg")
    return Finding("JPEG codec", "ok", f"simplejpeg {metadata.version('simplejpeg')}")


def _zarr() -> Finding:
    names = [point.name for point in metadata.entry_points(group="zarr.codecs")]
    if "fossilray.jpeg" not in names:
        return Finding(
            "Zarr crops codec",
            "note",
            "entry point fossilray.jpeg missing: other programs must import fossilray_jpeg",
        )
    return Finding("Zarr crops codec", "ok", f"zarr {metadata.version('zarr')}, entry point fossilray.jpeg")


def _duckdb() -> Finding:
    import duckdb
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table({"n": [1, 2]}), file)
    connection = duckdb.connect()
    with pq.ParquetFile(file) as parquet:
        connection.register("numbers", parquet.read(use_threads=False))
    total = connection.execute("select sum(n) from numbers").fetchone()
    return Finding("DuckDB", "ok" if total == (3,) else "broken", f"duckdb {duckdb.__version__}")


def _detector() -> Finding:
    from fossilray.models.detectors.load import load_detector

    detector = load_detector(DetectorConfig(), device="cpu")
    boxes = detector.detect(np.full((1, 256, 256, 3), 230, np.uint8), um_per_px=1.0)
    return Finding(
        "detector weights", "ok", f"bundled detector loads and runs ({len(boxes[0])} boxes on a clear field)"
    )


def _embedder() -> Finding:
    from fossilray.models.backbones.load import load_embedder

    embedder = load_embedder(EmbedderConfig(), device="cpu")
    if embedder is None:
        return Finding("embedder weights", "note", "no embedder configured")
    return Finding("embedder weights", "ok", f"{embedder.name}, {embedder.dimension} numbers a crop")


def _scratch() -> Finding:
    place = tempfile.gettempdir()
    free_gb = shutil.disk_usage(place).free / 1e9
    verdict: Literal["ok", "note"] = "ok" if free_gb > SCRATCH_GB else "note"
    return Finding("scratch space", verdict, f"{free_gb:.0f} GB free in {place} (TMPDIR)")
