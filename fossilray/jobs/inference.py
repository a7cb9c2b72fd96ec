"""Answers about every committed slide of a run, from end to end: what `fossilray embed` and `classify run` run."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fossilray.core.config import RunConfig
from fossilray.core.errors import UsageError
from fossilray.core.records import CatalogRow
from fossilray.jobs.journal import DriverJournal, hold_as_only_driver
from fossilray.jobs.process import JobResult
from fossilray.jobs.progress import Display, Tally
from fossilray.jobs.scheduler import ray_cluster, run_items
from fossilray.models.backbones.load import weights_setting_of
from fossilray.models.heads import HeadMeta, head_digest, load_head
from fossilray.models.heads.compatibility import OTHER_VECTORS, require_same_backbone
from fossilray.models.heads.head import BackboneReference
from fossilray.models.heads.uncertainty import COVERAGE
from fossilray.processing.inference.tasks import ClassifyTask, EmbedTask
from fossilray.processing.inference.worker import InferenceTask, InferenceWorker
from fossilray.store import RunStore, open_run
from fossilray.store.dataset.dataset_store import source_run
from fossilray.store.derived.derived_store import (
    ANSWERS_VERSION,
    CALIBRATED_VERSION,
    DerivedRecord,
    DerivedStore,
    derived_names,
)
from fossilray.store.maintenance.derived import delete_older_than_objects
from fossilray.store.query.slide_objects import backbone_of
from fossilray.store.run.layout import well_of

MakeAnswerer = Callable[[RunStore, RunConfig], InferenceTask]
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
    """Vectors of every stored crop by another backbone, under a name beside the run's own; the same call resumes.

    backbone: a file, or what `embedder.weights` takes. name: default the file's.

    Raises:
        UsageError: the backbone, the name or the run cannot be used as asked.
        WeightsError, WorkerError, StoreError: the job cannot go on; what is committed stays.
    """
    from fossilray.models.backbones.load import describe_embedder, embedder_digest

    store = source_run(open_run(run_url, config.store))
    embedder = config.embedder.model_copy(update={"weights": weights_setting_of(backbone)})
    config = config.model_copy(update={"embedder": embedder})
    run_digest = store.read_run().digest
    (digest,) = embedder_digest(embedder).values()
    described = {**describe_embedder(embedder), "sha256": digest}
    record = DerivedRecord(kind="embeddings", run_digest=run_digest, backbone=described)
    answers = DerivedStore.create(store, "embeddings", name or _name_of(backbone), record)
    return run_inference(store, answers, config, EmbedTask, address=address, display=display, stop=stop)


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
    """The genus of every object by a head, under a name beside the run's objects; the same call resumes.

    embeddings: the name of those to read; None: the run's own. coverage: of the sets of genera, of a head that says
    how sure it may be. name: default the file's.

    Raises:
        UsageError: the vectors are not of the backbone that the head was taught on, or the run cannot be used.
        WeightsError, WorkerError, StoreError: the job cannot go on; what is committed stays.
    """
    store = source_run(open_run(run_url, config.store))
    loaded = load_head(head)
    taught, confusion = loaded.meta, loaded.confusion
    record = DerivedRecord(
        kind="predictions",
        run_digest=store.read_run().digest,
        backbone=_vectors_of(store, taught, embeddings),
        head={
            "sha256": head_digest(head),
            "kind": taught.kind,
            "classes": taught.classes,
            # What counts are corrected by; a head that does not tell gives the record that it always gave.
            **({} if confusion is None else {"confusion": confusion.tolist(), "coverage": coverage}),
        },
        embeddings=embeddings,
        schema_version=ANSWERS_VERSION if taught.certainty is None else CALIBRATED_VERSION,
    )
    answers = DerivedStore.create(store, "predictions", name or head.stem, record)
    make_answerer = functools.partial(
        ClassifyTask, head=head.resolve(), embeddings=embeddings, coverage=coverage
    )
    return run_inference(store, answers, config, make_answerer, address=address, display=display, stop=stop)


def run_inference(
    store: RunStore,
    answers: DerivedStore,
    config: RunConfig,
    make_answerer: MakeAnswerer,
    *,
    address: str,
    display: Display,
    stop: threading.Event | None = None,
) -> JobResult:
    """Answers about every slide that is committed now and has none; slides that failed before are tried again.

    Those about objects that were made anew since are deleted and given again.

    Raises:
        WeightsError, WorkerError, StoreError: the job cannot go on; what is committed stays.
    """
    store.expect_run()
    with hold_as_only_driver(answers.tries):
        return _answer(store, answers, config, make_answerer, address=address, display=display, stop=stop)


def _answer(
    store: RunStore,
    answers: DerivedStore,
    config: RunConfig,
    make_answerer: MakeAnswerer,
    *,
    address: str,
    display: Display,
    stop: threading.Event | None,
) -> JobResult:
    outdated = delete_older_than_objects(store, answers)
    if outdated:
        display.say(
            f"{len(outdated)} slides were made anew since they were asked about; they are asked about again"
        )
    files, done = store.committed_files(), answers.committed()
    rows = [
        CatalogRow(slide_id=slide_id, path=path, well=well_of(path))
        for slide_id, path in sorted(files.items())
        if slide_id not in done
    ]
    answers.tries.forgive(answers.tries.failures())
    tally = Tally(total=len(files), already_committed=len(files) - len(rows))
    ledger = DriverJournal(answers.tries, patience_minutes=config.store.patience_minutes, cost=config.cost)
    if rows:
        make_worker = functools.partial(
            InferenceWorker, store.url, config, answers.record.kind, answers.name, make_answerer
        )
        with ray_cluster(address), display:
            run_items(
                rows, make_worker, config=config, ledger=ledger, tally=tally, display=display, stop=stop
            )
    return JobResult(tally, tuple(ledger.failures), stopped=tally.finished < tally.total, counts=tally.counts)


def _vectors_of(store: RunStore, taught: HeadMeta, embeddings: str | None) -> dict[str, Any]:
    """What made the vectors to be read, once it is sure that the head was taught on vectors of the same."""
    if embeddings is None:
        name, *digests = backbone_of(store)
        own = BackboneReference(name=name, sha256=digests[0] if digests else "")
        fitting = [
            one
            for one in derived_names(store, "embeddings")
            if DerivedStore.open(store, "embeddings", one).record.backbone["sha256"] == taught.backbone.sha256
        ]
        remedy = f"give --embeddings {fitting[0]}" if fitting else OTHER_VECTORS
        require_same_backbone(taught, own, subject=f"the vectors of {store.url}", remedy=remedy)
        return {**store.read_run().embedder, "sha256": own.sha256}
    vectors = DerivedStore.open(store, "embeddings", embeddings)
    made_by = vectors.record.backbone
    reference = BackboneReference(name=str(made_by["name"]), sha256=str(made_by["sha256"]))
    require_same_backbone(taught, reference, subject=f"the embeddings {embeddings}")
    missing = store.committed() - vectors.committed()
    if missing:
        raise UsageError(
            f"the embeddings {embeddings} lack {len(missing)} slides, such as {min(missing)}; start `fossilray embed` "
            "again first"
        )
    return dict(made_by)


def _name_of(backbone: str) -> str:
    return backbone if backbone == "bundled" else Path(backbone.rpartition(":")[2]).stem
