"""Pictures of a training: its curves, the views it is shown, and what its backbone takes for alike."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from fossilray.core.config.training import TrainConfig
from fossilray.core.types import Image
from fossilray.core.whole_files import write_whole
from fossilray.render.contact_sheet import tile_grid
from fossilray.render.crops import jpeg_uri
from fossilray.render.html import template_environment
from fossilray.training.export import ProbeCrops
from fossilray.training.log import METRICS_CSV, PROBES_CSV, read_rows
from fossilray.training.probes import normalised

if TYPE_CHECKING:
    import torch

if TYPE_CHECKING:
    import torch

CELL_PX = 88
_GAP_PX = 4
_PAPER, _RIGHT, _WRONG, _ASKED = (255, 255, 255), (60, 140, 80), (200, 60, 50), (90, 90, 90)


def draw_curves(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> str:
    """The named columns of a CSV file against the step, a panel each, as inline SVG; those absent are left out."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    present = [name for name in columns if any(row.get(name) for row in rows)]
    if not present:
        return ""
    lines = -(-len(present) // 3)
    with mpl.rc_context({"svg.hashsalt": "training", "font.size": 9, "svg.fonttype": "none"}):
        figure = Figure(figsize=(11, 2.3 * lines))
        # Half the time of a layout engine, for panels that are all alike.
        figure.subplots_adjust(0.06, 0.2 / lines, 0.99, 1 - 0.12 / lines, 0.22, 0.45)
        for place, name in enumerate(present):
            panel = figure.add_subplot(lines, 3, place + 1)
            points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
            panel.plot(*zip(*points, strict=True), color="#3f6f94", linewidth=1.2)
            if len(points) == 1:
                panel.plot(*points[0], "o", color="#3f6f94")
            panel.set_title(
                name.replace("_s", "/s") if name == "images_s" else name.replace("_", " "),
                loc="left",
                fontsize=9,
            )
            panel.spines[["top", "right"]].set_visible(False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    return re.sub(r"^.*?(?=<svg)", "", file.getvalue(), count=1, flags=re.DOTALL)


def draw_views(pixels: NDArray[np.uint8], views: Sequence[torch.Tensor]) -> Image:
    """A row for each crop: the crop (n, S, S, 3) as stored, then its views (n, 3, S, S) in 0..1."""
    shown = [(view.cpu() * 255).round().byte().permute(0, 2, 3, 1).numpy() for view in views]
    cells = [
        _cell(picture)
        for row, crop in enumerate(pixels)
        for picture in (crop, *(view[row] for view in shown))
    ]
    return tile_grid(cells, columns=1 + len(views))


def draw_neighbours(
    pixels: NDArray[np.uint8], vectors: NDArray[np.floating], label: NDArray[np.int64], *, seed: int
) -> Image:
    """Crops drawn at random, each with its seven nearest by cosine; green frames are of its class, red of another.

    Crops of unknown class (label -1) have no frame.
    """
    unit = normalised(vectors)
    rng = np.random.default_rng(seed)
    asked = np.sort(rng.choice(len(unit), size=min(10, len(unit)), replace=False))
    sheet = []
    for one in asked.tolist():
        similarity = unit @ unit[one]
        similarity[one] = -np.inf
        nearest = np.argsort(-similarity, kind="stable")[: min(7, len(unit) - 1)].tolist()
        frames = [_frame(int(label[one]), int(label[other])) for other in nearest]
        sheet += [_cell(pixels[one], _ASKED)]
        sheet += [_cell(pixels[other], frame) for other, frame in zip(nearest, frames, strict=True)]
    return tile_grid(sheet, columns=len(sheet) // len(asked))


def _frame(asked: int, found: int) -> tuple[int, int, int]:
    if asked < 0 or found < 0:
        return _PAPER
    return _RIGHT if asked == found else _WRONG


def _cell(crop: NDArray[np.uint8], frame: tuple[int, int, int] = _PAPER) -> Image:
    how = cv2.INTER_AREA if crop.shape[0] >= CELL_PX else cv2.INTER_LINEAR
    framed = np.empty((CELL_PX + 2 * _GAP_PX, CELL_PX + 2 * _GAP_PX, 3), np.uint8)
    framed[:] = frame
    framed[_GAP_PX:-_GAP_PX, _GAP_PX:-_GAP_PX] = cv2.resize(crop, (CELL_PX, CELL_PX), interpolation=how)
    return framed


PAGE = "training.html"


_PROBED = ("nearest_f1", "precision_at_nk", "knn_accuracy", "embedding_std", "effective_rank")


_NOT_PLOTTED = {"step", "epoch", "seconds", "share", "loss"}


def write_training_report(
    folder: Path,
    config: TrainConfig,
    *,
    name: str,
    failed: int,
    probe: ProbeCrops,
    vectors: NDArray[np.floating],
    shown: NDArray[np.uint8],
    views: Sequence[torch.Tensor],
) -> Path:
    """training.html from the CSV files of the folder and these pictures; its path.

    failed: crops that did not decode. vectors: of the probe's crops. shown: crops (n, S, S, 3); views: what became of
    them, (n, 3, S, S) in 0..1 each.
    """
    environment = template_environment()
    metrics, probes = read_rows(folder / METRICS_CSV), read_rows(folder / PROBES_CSV)
    last_metrics, last_probe = (rows[-1] if rows else {} for rows in (metrics, probes))
    page = environment.get_template("training.html.j2").render(
        name=name,
        failed=failed,
        config=config,
        settings=yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False),
        metrics=last_metrics,
        probe={label: last_probe[label] for label in _PROBED if last_probe.get(label)},
        unseen=probe.unseen,
        probe_crops=len(probe.label),
        loss_curves=draw_curves(metrics, ["loss", *_plotted(metrics)]),
        probe_curves=draw_curves(probes, _PROBED),
        neighbours=jpeg_uri(draw_neighbours(probe.pixels, vectors, probe.label, seed=config.seed)),
        views=jpeg_uri(draw_views(shown, views)),
    )
    path = folder / PAGE
    write_whole(path, page)
    return path


def _plotted(rows: Sequence[dict[str, str]]) -> list[str]:
    return [name for name in (rows[0] if rows else {}) if name not in _NOT_PLOTTED]
