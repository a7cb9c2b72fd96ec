"""The page about a finished training: curves, the views it was shown, nearest neighbours. No network, no script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from numpy.typing import NDArray

from fossilray.analysis.report.contact_sheets import jpeg_uri
from fossilray.core.config.training import TrainConfig
from fossilray.core.whole_files import write_whole
from fossilray.render.html import template_environment
from fossilray.training.export import ProbeCrops
from fossilray.training.log import METRICS_CSV, PROBES_CSV, read_rows
from fossilray.training.report import draw_curves, draw_neighbours, draw_views

if TYPE_CHECKING:
    import torch

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
