"""The inference jobs behind `fossilray embed` and `classify run`: derived rows for every committed slide of a run."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fossilray.core.config import RunConfig
from fossilray.core.errors import UsageError
from fossilray.core.records import WorkItem
from fossilray.jobs.journal import require_single_driver
from fossilray.jobs.progress import Display
from fossilray.jobs.run_items import JobResult, run_derived_job
from fossilray.models.backbones.load import weights_setting_of
from fossilray.models.heads import HeadMeta, head_digest, load_head
from fossilray.models.heads.compatibility import OTHER_VECTORS, require_same_backbone
from fossilray.models.heads.uncertainty import COVERAGE
from fossilray.processing.inference.tasks import ClassifyTask, EmbedTask
from fossilray.processing.inference.worker import InferenceTask, InferenceWorker
from fossilray.store import RunStore, open_run
from fossilray.store.derived.derived_store import (
    CALIBRATED_VERSION,
    DERIVED_VERSION,
    RANKED_VERSION,
    DerivedRecord,
    DerivedStore,
    derived_names,
)
from fossilray.store.maintenance.derived import delete_older_than_objects
from fossilray.store.query.vectors import VectorBackbone

MakeTask = Callable[[RunStore, RunConfig], InferenceTask]
"""Called in every worker's process."""


def embed_run(
    run_url: str,
    backbone: str,
    config: RunConfig,
    *,
    name: str | None = None,
    address: str,
    display: Display,
    stop: threading.Event | None = None,
) -> JobResult:
    """Embed every stored crop by another backbone, as derived embeddings of a name; the same call resumes.

    backbone: a file, or any value of `embedder.weights`. name: by default the file's.

    Raises:
        UsageError: the backbone, the name or the run cannot be used.
        WeightsError, WorkerError, StoreError: the job cannot continue; commits stay.
    """
    from fossilray.models.backbones.load import describe_embedder, embedder_digest

    store = open_run(run_url, config.store).source_run
    embedder = config.embedder.model_copy(update={"weights": weights_setting_of(backbone)})
    config = config.model_copy(update={"embedder": embedder})
    run_digest = store.read_run().digest
    (digest,) = embedder_digest(embedder).values()
    described = {**describe_embedder(embedder), "sha256": digest}
    record = DerivedRecord(kind="embeddings", run_digest=run_digest, backbone=described)
    derived = DerivedStore.create(store, "embeddings", name or _name_of(backbone), record)
    return run_inference(store, derived, config, EmbedTask, address=address, display=display, stop=stop)


def classify_run(
    run_url: str,
    head: Path,
    config: RunConfig,
    *,
    embeddings: str | None = None,
    coverage: float = COVERAGE,
    name: str | None = None,
    address: str,
    display: Display,
    stop: threading.Event | None = None,
) -> JobResult:
    """Predict the genus of every object by a head, as derived predictions of a name; the same call resumes.

    embeddings: name of the derived embeddings to read; None: the run's own. coverage: of the prediction sets, where
    the head has calibrated uncertainty. name: by default the file's.

    Raises:
        UsageError: the embeddings are by another backbone than the head was trained on, or the run cannot be used.
        WeightsError, WorkerError, StoreError: the job cannot continue; commits stay.
    """
    store = open_run(run_url, config.store).source_run
    loaded = load_head(head)
    meta, confusion = loaded.meta, loaded.confusion
    record = DerivedRecord(
        kind="predictions",
        run_digest=store.read_run().digest,
        backbone=_check_backbone(store, meta, embeddings),
        head={
            "sha256": head_digest(head),
            "kind": meta.kind,
            "classes": meta.classes,
            # For the correction of counts; the record of a head without a confusion matrix stays as it was.
            **({} if confusion is None else {"confusion": confusion.tolist(), "coverage": coverage}),
        },
        embeddings=embeddings,
        schema_version=_version_of(meta),
    )
    derived = DerivedStore.create(store, "predictions", name or head.stem, record)
    make_task = functools.partial(ClassifyTask, head=head.resolve(), embeddings=embeddings, coverage=coverage)
    return run_inference(store, derived, config, make_task, address=address, display=display, stop=stop)


def run_inference(
    store: RunStore,
    derived: DerivedStore,
    config: RunConfig,
    make_task: MakeTask,
    *,
    address: str,
    display: Display,
    stop: threading.Event | None = None,
) -> JobResult:
    """Run a task on every committed slide without derived rows; slides that failed before are tried again.

    Derived rows of slides that were reprocessed since are deleted and computed again.

    Raises:
        WeightsError, WorkerError, StoreError: the job cannot continue; commits stay.
    """
    store.expect_run()
    with require_single_driver(derived.files):
        result = _run(store, derived, config, make_task, address=address, display=display, stop=stop)
    return dataclasses.replace(result, folder=derived.files.url)


def _run(
    store: RunStore,
    derived: DerivedStore,
    config: RunConfig,
    make_task: MakeTask,
    *,
    address: str,
    display: Display,
    stop: threading.Event | None,
) -> JobResult:
    outdated = delete_older_than_objects(store, derived)
    if outdated:
        display.message(
            f"{len(outdated)} slides were reprocessed since; their {derived.record.kind} are computed again"
        )
    files, done = store.committed_files(), derived.committed()
    items = [
        WorkItem(slide_id, payload=path, source=path)
        for slide_id, path in sorted(files.items())
        if slide_id not in done
    ]
    return run_derived_job(
        items,
        functools.partial(InferenceWorker, store.url, config, derived.record.kind, derived.name, make_task),
        attempts=derived.attempts,
        already_committed=len(files) - len(items),
        unit="slide",
        address=address,
        config=config,
        display=display,
        stop=stop,
    )


def _version_of(meta: HeadMeta) -> int:
    if meta.taxa is not None:
        return RANKED_VERSION
    return DERIVED_VERSION if meta.uncertainty is None else CALIBRATED_VERSION


def _check_backbone(store: RunStore, meta: HeadMeta, embeddings: str | None) -> dict[str, Any]:
    """Return the record of the backbone of the embeddings; refuse them where the head was trained on another."""
    if embeddings is None:
        stored = VectorBackbone.of_run(store.read_run())
        fitting = [
            name
            for name in derived_names(store, "embeddings")
            if DerivedStore.open(store, "embeddings", name).record.backbone["sha256"] == meta.backbone.sha256
        ]
        remedy = f"give --embeddings {fitting[0]}" if fitting else OTHER_VECTORS
        require_same_backbone(meta, stored, subject=f"the vectors of {store.url}", remedy=remedy)
        return {**store.read_run().embedder, "sha256": stored.sha256}
    vectors = DerivedStore.open(store, "embeddings", embeddings)
    made_by = vectors.record.backbone
    require_same_backbone(meta, VectorBackbone.of(made_by), subject=f"the embeddings {embeddings}")
    missing = store.committed() - vectors.committed()
    if missing:
        raise UsageError(
            f"the embeddings {embeddings} lack {len(missing)} slides, such as {min(missing)}; start `fossilray embed` "
            "again first"
        )
    return dict(made_by)


def _name_of(backbone: str) -> str:
    return backbone if backbone == "bundled" else Path(backbone.rpartition(":")[2]).stem
