"""Inference on stored crops: embeddings by a backbone, or genera by a head."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.core.config import RunConfig
from fossilray.core.schemas import (
    CALIBRATED_PREDICTIONS_SCHEMA,
    PREDICTIONS_SCHEMA,
    RANKED_PREDICTIONS_SCHEMA,
    embeddings_schema,
)
from fossilray.core.types import Embedder
from fossilray.core.vectors import entropy
from fossilray.models.heads import Head, load_head
from fossilray.models.heads.defended_rank import defended_taxa
from fossilray.models.heads.uncertainty import COVERAGE, predict_uncertainty
from fossilray.processing.inference.worker import Progress
from fossilray.store import RunStore
from fossilray.store.arrays.crops import read_encoded_crops
from fossilray.store.arrays.group import crop_decoder
from fossilray.store.query.stored_slide import StoredSlide
from fossilray.store.query.vectors import VectorReader

CROPS_PER_CHUNK = 512
"""Crops that are read while the chunk before them is embedded: 77 MB per chunk at 224 px."""


class EmbedTask:
    """Embeds all crops by the backbone of `embedder.weights`."""

    def __init__(self, store: RunStore, config: RunConfig) -> None:
        self._store = store
        self._config = config

    def prepare(self) -> str:
        import torch

        from fossilray.models.backbones.load import load_embedder

        torch.set_num_threads(self._config.workers.torch_threads)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        embedder = load_embedder(
            self._config.embedder,
            device=device,
            precision=self._config.workers.precision,
            compiled=self._config.workers.compile,
        )
        assert embedder is not None, "the job refuses embedder.weights none"
        self._embedder: Embedder = embedder
        crops = self._store.read_run().config["crops"]
        side_px = int(crops["size_px"])
        self._decode = crop_decoder(str(crops["encoding"]), height=side_px, width=side_px)
        return device

    def run(self, slide: StoredSlide, progress: Progress) -> pa.Table:
        path, count = slide.footer.arrays.path, slide.objects.num_rows
        vectors = np.empty((count, self._embedder.dimension), np.float16)
        rows = np.asarray(slide.objects["object_id"].to_numpy(), np.int64)
        chunks = [rows[begin : begin + CROPS_PER_CHUNK] for begin in range(0, count, CROPS_PER_CHUNK)]
        with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
            pending = [reader.submit(self._read, path, chunk) for chunk in chunks[:1]]
            for number, chunk in enumerate(chunks):
                crops = pending.pop().result()
                if number + 1 < len(chunks):
                    pending.append(reader.submit(self._read, path, chunks[number + 1]))
                begin = number * CROPS_PER_CHUNK
                vectors[begin : begin + len(chunk)] = self._embedder.embed(crops)
                progress("embed", (begin + len(chunk)) / count)
        schema = embeddings_schema(self._embedder.dimension)
        kind = schema.field("embedding").type
        return pa.Table.from_arrays(
            [
                pa.array([slide.slide_id] * count, pa.string()),
                slide.objects["object_id"].combine_chunks(),
                pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=kind),
            ],
            schema=schema,
        )

    def _read(self, path: str, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([self._decode(crop) for crop in read_encoded_crops(self._store, path, rows)])


class ClassifyTask:
    """Predicts the genus of all crops by a head, from the run's own embeddings or from derived ones."""

    def __init__(
        self,
        store: RunStore,
        config: RunConfig,
        *,
        head: Path,
        embeddings: str | None,
        coverage: float = COVERAGE,
    ) -> None:
        self._store = store
        self._coverage = coverage
        self._path = head
        self._name = embeddings

    def prepare(self) -> str:
        self._head = load_head(self._path)
        self._vectors = VectorReader(self._store, self._name)
        return "cpu"

    def run(self, slide: StoredSlide, progress: Progress) -> pa.Table:
        vectors = self._vectors.slide(slide)
        progress("classify", 0.0)
        # A crop without pixels has the embedding of a grey square, and no genus.
        known = slide.objects["opacity"].is_valid().to_numpy() & np.isfinite(vectors).all(axis=1)
        return predictions_table(slide, self._head, vectors, known, coverage=self._coverage)


def predictions_table(
    slide: StoredSlide,
    head: Head,
    vectors: NDArray[np.float16],
    known: NDArray[np.bool_],
    *,
    coverage: float = COVERAGE,
) -> pa.Table:
    """Predict the genera of a slide's objects, as a table of PREDICTIONS_SCHEMA.

    vectors: N x D. known: N, False for objects that get no genus. Classes of equal probability keep the head's order.
    A head with calibrated uncertainty gives CALIBRATED_PREDICTIONS_SCHEMA, one with taxa RANKED_PREDICTIONS_SCHEMA.
    coverage: of its prediction sets.
    """
    count = len(vectors)
    probability = np.zeros((count, len(head.classes)), np.float32)
    probability[known] = head.predict(vectors[known])
    ranked = np.argsort(-probability, axis=1, kind="stable")
    order = ranked[:, :3]
    name = np.array(head.classes, dtype=object)
    columns: dict[str, pa.Array] = {
        "slide_id": pa.array([slide.slide_id] * count, pa.string()),
        "object_id": slide.objects["object_id"].combine_chunks(),
        "entropy": pa.array(np.maximum(entropy(probability), 0), pa.float32(), mask=~known),
    }
    for rank, suffix in enumerate(("", "_2", "_3")):
        if rank < order.shape[1]:
            best = order[:, rank]
            score = np.take_along_axis(probability, best[:, None], axis=1)[:, 0]
            columns[f"genus{suffix}"] = pa.array(name[best], pa.string(), mask=~known)
            columns[f"score{suffix}"] = pa.array(score, pa.float32(), mask=~known)
        else:
            columns[f"genus{suffix}"] = pa.nulls(count, pa.string())
            columns[f"score{suffix}"] = pa.nulls(count, pa.float32())
    schema = PREDICTIONS_SCHEMA
    if head.meta.uncertainty is not None:
        schema = CALIBRATED_PREDICTIONS_SCHEMA
        columns |= _uncertainty_columns(head, vectors, probability, known, ranked, coverage)
    if (taxa := head.meta.taxa) is not None:
        schema = RANKED_PREDICTIONS_SCHEMA
        names, ranks = defended_taxa(probability, head.classes, taxa)
        columns["taxon"] = pa.array(np.array(names, object), pa.string(), mask=~known)
        columns["rank"] = pa.array(np.array(ranks, object), pa.string(), mask=~known)
    return pa.Table.from_arrays([columns[field.name] for field in schema], schema=schema)


def _uncertainty_columns(
    head: Head,
    vectors: NDArray[np.float16],
    probability: NDArray[np.float32],
    known: NDArray[np.bool_],
    ranked: NDArray[np.int64],
    coverage: float,
) -> dict[str, pa.Array]:
    uncertainty = predict_uncertainty(head, vectors[known], probability[known], coverage=coverage)
    order = ranked[known]
    in_order = np.take_along_axis(uncertainty.sets, order, axis=1)
    set_sizes = np.zeros(len(known), np.int64)
    set_sizes[known] = in_order.sum(axis=1)
    names = np.array(head.classes, dtype=object)[order[in_order]]
    offsets = np.concatenate([[0], np.cumsum(set_sizes)]).astype(np.int32)
    columns: dict[str, pa.Array] = {
        "genera": pa.ListArray.from_arrays(
            pa.array(offsets), pa.array(names, pa.string()), mask=pa.array(~known)
        )
    }
    for name in ("wrong_p", "novelty", "novelty_p"):
        values = np.zeros(len(known), np.float32)
        values[known] = getattr(uncertainty, name)
        columns[name] = pa.array(values, mask=~known)
    return columns
