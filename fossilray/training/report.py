"""The page of a training: its curves, examples of views, and nearest neighbours by its backbone."""

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

from fossilray.core.atomic_files import write_atomically
from fossilray.core.config.training import TrainConfig
from fossilray.core.types import Image
from fossilray.core.vectors import unit_vectors
from fossilray.render.contact_sheet import tile_grid
from fossilray.render.crops import jpeg_uri
from fossilray.render.html import template_environment
from fossilray.training.export import ProbeCrops
from fossilray.training.log import METRICS_CSV, PROBES_CSV, read_log

if TYPE_CHECKING:
    import torch

TRAINING_PAGE = "training.html"
_PROBE_METRICS = ("nearest_f1", "precision_at_nk", "knn_accuracy", "embedding_std", "effective_rank")
_NOT_PLOTTED = {"step", "epoch", "seconds", "share", "loss"}
_CELL_PX = 88
_GAP_PX = 4
_BACKGROUND, _SAME_CLASS, _OTHER_CLASS, _QUERY = (255, 255, 255), (60, 140, 80), (200, 60, 50), (90, 90, 90)


def draw_curves(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> str:
    """Draw columns of a log against the step as inline SVG, one panel each; columns without values are left out."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    present = [name for name in columns if any(row.get(name) for row in rows)]
    if not present:
        return ""
    panel_rows = -(-len(present) // 3)
    with mpl.rc_context({"svg.hashsalt": "training", "font.size": 9, "svg.fonttype": "none"}):
        figure = Figure(figsize=(11, 2.3 * panel_rows))
        # Panels of one size need no layout engine, which would take twice the time.
        figure.subplots_adjust(0.06, 0.2 / panel_rows, 0.99, 1 - 0.12 / panel_rows, 0.22, 0.45)
        for number, name in enumerate(present):
            panel = figure.add_subplot(panel_rows, 3, number + 1)
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
    """Draw one row for each crop (n, S, S, 3): the stored crop, then its views (n, 3, S, S) in 0..1."""
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
    """Draw random crops with their seven nearest neighbours by cosine similarity.

    A green frame marks a neighbour of the query's class, a red frame one of another class. Neighbours have no frame if
    either class is unknown (label -1).
    """
    unit = unit_vectors(vectors.astype(np.float64))
    rng = np.random.default_rng(seed)
    queries = np.sort(rng.choice(len(unit), size=min(10, len(unit)), replace=False))
    cells = []
    for query in queries.tolist():
        similarity = unit @ unit[query]
        similarity[query] = -np.inf
        nearest = np.argsort(-similarity, kind="stable")[: min(7, len(unit) - 1)].tolist()
        cells += [_cell(pixels[query], _QUERY)]
        cells += [_cell(pixels[row], _frame(int(label[query]), int(label[row]))) for row in nearest]
    return tile_grid(cells, columns=len(cells) // len(queries))


def _frame(query_label: int, label: int) -> tuple[int, int, int]:
    if query_label < 0 or label < 0:
        return _BACKGROUND
    return _SAME_CLASS if query_label == label else _OTHER_CLASS


def _cell(crop: NDArray[np.uint8], frame: tuple[int, int, int] = _BACKGROUND) -> Image:
    interpolation = cv2.INTER_AREA if crop.shape[0] >= _CELL_PX else cv2.INTER_LINEAR
    framed = np.empty((_CELL_PX + 2 * _GAP_PX, _CELL_PX + 2 * _GAP_PX, 3), np.uint8)
    framed[:] = frame
    framed[_GAP_PX:-_GAP_PX, _GAP_PX:-_GAP_PX] = cv2.resize(
        crop, (_CELL_PX, _CELL_PX), interpolation=interpolation
    )
    return framed


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
    """Write training.html from the folder's CSV logs and these images; return its path.

    Args:
        folder: Output folder of the training.
        config: Its configuration.
        name: Name of the backbone.
        failed: Number of crops that could not be decoded.
        probe: The probe crops.
        vectors: (n, d) vectors of the probe crops.
        shown: (m, S, S, 3) example crops.
        views: Views of the example crops, each (m, 3, S, S) in 0..1.
    """
    environment = template_environment()
    metrics, probes = read_log(folder / METRICS_CSV), read_log(folder / PROBES_CSV)
    last_metrics, last_probe = (rows[-1] if rows else {} for rows in (metrics, probes))
    page = environment.get_template("training.html.j2").render(
        name=name,
        failed=failed,
        config=config,
        settings=yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False),
        metrics=last_metrics,
        probe={label: last_probe[label] for label in _PROBE_METRICS if last_probe.get(label)},
        unseen=probe.unseen,
        probe_crops=len(probe.label),
        loss_curves=draw_curves(metrics, ["loss", *_plotted(metrics)]),
        probe_curves=draw_curves(probes, _PROBE_METRICS),
        neighbours=jpeg_uri(draw_neighbours(probe.pixels, vectors, probe.label, seed=config.seed)),
        views=jpeg_uri(draw_views(shown, views)),
    )
    path = folder / TRAINING_PAGE
    write_atomically(path, page)
    return path


def _plotted(rows: Sequence[dict[str, str]]) -> list[str]:
    return [name for name in (rows[0] if rows else {}) if name not in _NOT_PLOTTED]
