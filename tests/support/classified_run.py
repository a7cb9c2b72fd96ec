"""A small run with answers, written through the real store: what heads and backbones might have said."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from fossilray.core.schemas import PREDICTIONS_SCHEMA, embeddings_schema
from fossilray.store import RunStore
from fossilray.store.derived.derived_store import DerivedRecord, DerivedStore

GENERA = ("Alnus", "Betula", "Corylus")
BACKBONE = {"name": "net", "sha256": "cd" * 32, "dimension": 4}


def predict(
    run: RunStore,
    name: str,
    *,
    genera: Sequence[str] = GENERA,
    slides: Sequence[str] | None = None,
    seed: int = 0,
) -> DerivedStore:
    """Predictions about all committed slides, or some; the last object of a slide has no genus."""
    head = {"sha256": name * 4, "kind": "knn", "classes": list(genera)}
    record = DerivedRecord("predictions", run.read_run().digest, BACKBONE, head=head)
    answers = DerivedStore.create(run, "predictions", name, record)
    for slide_id in sorted(run.committed() if slides is None else slides):
        footer = run.footer(slide_id)
        assert footer is not None
        table = made_up_predictions(slide_id, footer.summary.objects, genera, seed=seed)
        assert answers.commit(slide_id, footer.summary.well, table, source_attempt=footer.attempt)
    return answers


def made_up_predictions(slide_id: str, count: int, genera: Sequence[str], *, seed: int) -> pa.Table:
    """PREDICTIONS_SCHEMA with genera and probabilities drawn by lot."""
    rng = np.random.default_rng([seed, count])
    likely = np.sort(rng.dirichlet(np.ones(len(genera)), count), axis=1)[:, ::-1].astype(np.float32)
    order = np.array([rng.permutation(len(genera)) for _ in range(count)], np.int64)
    order = order.reshape(count, len(genera))
    unknown = np.arange(count) == count - 1
    entropy = -(likely * np.log(np.maximum(likely, 1e-30))).sum(axis=1)
    columns = {
        "slide_id": pa.array([slide_id] * count, pa.string()),
        "object_id": pa.array(np.arange(count), pa.int32()),
        "entropy": pa.array(entropy, pa.float32(), mask=unknown),
    }
    for rank, suffix in enumerate(("", "_2", "_3")):
        names = (
            np.array(genera, object)[order[:, rank]] if rank < len(genera) else np.full(count, None, object)
        )
        score = likely[:, rank] if rank < len(genera) else np.zeros(count)
        missing = unknown if rank < len(genera) else np.ones(count, bool)
        columns[f"genus{suffix}"] = pa.array(names, pa.string(), mask=missing)
        columns[f"score{suffix}"] = pa.array(score, pa.float32(), mask=missing)
    return pa.Table.from_arrays(
        [columns[field.name] for field in PREDICTIONS_SCHEMA], schema=PREDICTIONS_SCHEMA
    )


def embed(run: RunStore, name: str, *, dimension: int) -> DerivedStore:
    """Vectors of all committed slides, each filled with the number of its object."""
    record = DerivedRecord("embeddings", run.read_run().digest, {**BACKBONE, "dimension": dimension})
    answers = DerivedStore.create(run, "embeddings", name, record)
    schema = embeddings_schema(dimension)
    for slide_id in sorted(run.committed()):
        footer = run.footer(slide_id)
        assert footer is not None
        count = footer.summary.objects
        values = pa.array(np.repeat(np.arange(count), dimension).astype(np.float16))
        columns = [
            pa.array([slide_id] * count, pa.string()),
            pa.array(np.arange(count), pa.int32()),
            pa.FixedSizeListArray.from_arrays(values, type=schema.field("embedding").type),
        ]
        table = pa.Table.from_arrays(columns, schema=schema)
        assert answers.commit(slide_id, footer.summary.well, table, source_attempt=footer.attempt)
    return answers
