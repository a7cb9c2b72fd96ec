"""Synthetic wells of known assemblages, with predictions of a classifier of known errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from support.classified_run import BACKBONE
from support.small_run import CROP_PX, commit_slide

from fossilray.core.config import CropsConfig, EmbedderConfig, RunConfig
from fossilray.core.records import CatalogRow
from fossilray.core.schemas import PREDICTIONS_SCHEMA
from fossilray.store import RunStore
from fossilray.store.derived.derived_store import DerivedRecord, DerivedStore
from fossilray.store.run.run_record import describe_run

WELL = "6407/6-5"
TAXA = ("Areoligera", "Cerodinium", "Deflandrea", "Glaphyrocysta", "Palaeoperidinium", "Wetzeliella")


@dataclass(frozen=True)
class Truth:
    """Assemblages of a synthetic well and the errors of its classifier."""

    depths: NDArray[np.float64]
    shares: NDArray[np.float64]
    """(samples, taxa) of the assemblages that the objects were drawn from."""
    confused: NDArray[np.float64]
    """(taxa, taxa) probability of each prediction (columns) for each true taxon (rows)."""
    validation: NDArray[np.int64]
    """(taxa, taxa) validation crops by true and by predicted taxon."""


def make_truth(*, samples: int = 12, right: float = 0.85, crops: int = 60, seed: int = 0) -> Truth:
    """Three zones of two leading taxa each, with taxa that are absent from zones."""
    rng = np.random.default_rng(seed)
    number = len(TAXA)
    leading = np.array(
        [
            [0.02, 0, 0.38, 0, 0, 0.60],
            [0.25, 0, 0.15, 0.60, 0, 0],
            [0.10, 0.35, 0, 0.05, 0.50, 0],
        ]
    )
    zone = np.arange(samples) * 3 // samples
    shares = leading[zone] * rng.uniform(0.8, 1.2, (samples, number))
    shares /= shares.sum(axis=1, keepdims=True)
    confused = np.stack(
        [np.insert(rng.dirichlet(np.ones(number - 1)) * (1 - right), row, right) for row in range(number)]
    )
    validation = np.stack([rng.multinomial(crops, row) for row in confused])
    return Truth(2000 + 12.5 * np.arange(samples), shares, confused, validation)


def draw_predictions(truth: Truth, objects: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return counts (samples, taxa) of predictions for `objects` objects per sample."""
    return np.stack([rng.multinomial(objects, share @ truth.confused) for share in truth.shares])


def start_run(folder: Path) -> RunStore:
    """A run without embeddings, nothing committed."""
    store = RunStore.open(str(folder))
    settings = RunConfig(crops=CropsConfig(size_px=CROP_PX), embedder=EmbedderConfig(weights="none"))
    store.create_or_check(describe_run(settings, {"detector": "ab" * 32}))
    store.freeze_catalog([CatalogRow(slide_id="a", path="slides/a.mrxs", well=WELL)])
    return store


def write_well(
    store: RunStore,
    truth: Truth,
    *,
    well: str = WELL,
    objects: int = 80,
    barren: tuple[int, ...] = (),
    seed: int = 0,
    predictions: DerivedStore | None = None,
    with_confusion: bool = True,
) -> DerivedStore:
    """Commit one slide per sample with its predictions; `barren` samples have no objects."""
    if predictions is None:
        head = {"sha256": "ef" * 32, "kind": "knn", "classes": list(TAXA)}
        if with_confusion:
            head["confusion"] = truth.validation.tolist()
        record = DerivedRecord("predictions", store.read_run().digest, BACKBONE, head=head)
        predictions = DerivedStore.create(store, "predictions", "genera", record)
    counts = draw_predictions(truth, objects, np.random.default_rng(seed))
    for row, depth_m in enumerate(truth.depths.tolist()):
        slide_id = f"{well.replace('/', '-')}-{depth_m:g}"
        count = 0 if row in barren else objects
        commit_slide(
            store, slide_id, count=count, well=well, depth_m=depth_m, seed=seed + row, embeddings=False
        )
        names = np.repeat(TAXA, counts[row])[:count]
        footer = store.footer(slide_id)
        assert footer is not None
        predictions.commit(slide_id, well, predictions_table(slide_id, names), source_attempt=footer.attempt)
    return predictions


def predictions_table(slide_id: str, names: NDArray[np.str_]) -> pa.Table:
    """Return a table in PREDICTIONS_SCHEMA with these genera, each with probability 1."""
    rows = len(names)
    values = {
        "slide_id": [slide_id] * rows,
        "object_id": list(range(rows)),
        "genus": names.tolist(),
        "score": [1.0] * rows,
        "entropy": [0.0] * rows,
    }
    columns = [pa.array(values.get(field.name, [None] * rows), field.type) for field in PREDICTIONS_SCHEMA]
    return pa.Table.from_arrays(columns, schema=PREDICTIONS_SCHEMA)
