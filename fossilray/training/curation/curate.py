"""Which crops of runs to learn from, and how often: clusters of look-alikes, rules for what is none, balanced weights.

Memory holds a sample of vectors, a slide, and some figures of each cluster; all else is streamed. The table appears
whole and last: whoever is stopped before leaves nothing that reads as one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fossilray.core.config import CurationConfig, StoreConfig
from fossilray.core.schemas import CURATION_SCHEMA, SCHEMA_VERSION
from fossilray.core.version import __version__
from fossilray.models.clustering import Clusters, find_clusters
from fossilray.store import RunStore
from fossilray.store.files.streaming import StreamedFile, split_table_path, stream_to
from fossilray.store.query.slide_objects import SlideObjects, check_runs, read_slides
from fossilray.store.query.vectors import VectorReader
from fossilray.store.run.objects_file import FOOTER_KEY, ROW_GROUP_ROWS
from fossilray.training.curation.page import render_page
from fossilray.training.curation.record import CuratedCluster, CuratedRun, CurationRecord
from fossilray.training.curation.rules import (
    RULES,
    TypicalSharpness,
    apply_rules,
    balance_weights,
    meets_rules,
)
from fossilray.training.curation.sample import draw_sample
from fossilray.training.curation.sheets import ClusterSample, draw_sheets

WITHOUT_PIXELS, WITHOUT_VECTOR = -1, -2
"""In place of a cluster, while it is not written yet; the table says -1 of both."""

_SPOOL_SCHEMA = pa.schema([("slide_id", pa.string()), ("object_id", pa.int32()), ("cluster", pa.int32())])


def curate(
    stores: Sequence[RunStore],
    out: str,
    config: CurationConfig,
    *,
    access: StoreConfig | None = None,
    on_slide: Callable[[], None] = lambda: None,
) -> CurationRecord:
    """Write the table of CURATION_SCHEMA and, beside it, a page of contact sheets; what the table's footer says.

    out: a .parquet file, local or s3://, which is replaced; the page is called alike and ends in .html. on_slide is
    called for each slide that is done. Equal runs, configuration and packages give equal bytes.

    Raises:
        UsageError: the runs cannot be curated together, hold no vectors, or `out` is no place for a table.
        StoreError: a run cannot be read, or the table not written.
    """
    files, name = split_table_path(out, access or StoreConfig())
    check_runs(stores)
    sample = draw_sample(stores, config)
    clusters = find_clusters(
        sample.vectors, clusters=config.clusters, families=config.families, seed=config.seed
    )
    typical = TypicalSharpness.of(sample)
    with tempfile.TemporaryFile() as spool:
        tally = ClusterStatistics(clusters, typical, config)
        with pq.ParquetWriter(spool, _SPOOL_SCHEMA, compression="zstd") as writer:
            for run, store in enumerate(stores):
                for slide in read_slides(store, run=run):
                    writer.write_table(_spooled(slide, tally.add(slide)))
                    on_slide()
        record = tally.conclude(stores)
        page = render_page(record, draw_sheets(stores, tally.drawn, clusters=len(clusters)))
        with stream_to(files, name.removesuffix(".parquet") + ".html") as sink:
            sink.write(page.encode())
        spool.seek(0)
        with stream_to(files, name) as sink:
            _write_table(spool, sink, record, len(clusters))
    return record


class ClusterStatistics:
    """What is known of each cluster while slides come in."""

    def __init__(self, clusters: Clusters, typical: TypicalSharpness, config: CurationConfig) -> None:
        count = len(clusters)
        self._clusters, self._typical, self._config = clusters, typical, config
        self._objects = np.zeros(count, np.int64)
        self._met = np.zeros((count, len(RULES)), np.int64)
        self._sums = np.zeros((count, 2))
        self._without = {WITHOUT_PIXELS: 0, WITHOUT_VECTOR: 0}
        self._runs: dict[int, list[int]] = {}
        self.drawn = ClusterSample.nothing(shown=config.shown)

    def add(self, slide: SlideObjects) -> NDArray[np.int32]:
        """Count a slide's objects in; the cluster of each, or why it has none."""
        cluster = self._clusters.assign(slide.vectors)
        cluster[slide.without_vector] = WITHOUT_VECTOR
        cluster[slide.without_pixels] = WITHOUT_PIXELS
        for why in self._without:
            self._without[why] += int((cluster == why).sum())
        sound = np.flatnonzero(cluster >= 0)
        of = cluster[sound]
        np.add.at(self._objects, of, 1)
        np.add.at(self._met, of, meets_rules(slide, self._typical, self._config)[sound].astype(np.int64))
        np.add.at(self._sums, of, np.stack([slide.longest_um, slide.opacity], axis=1)[sound])
        done = self._runs.setdefault(slide.run, [0, 0])
        rng = np.random.default_rng([self._config.seed, slide.run, done[0]])
        done[0], done[1] = done[0] + 1, done[1] + len(slide)
        self.drawn = self.drawn.among(slide, sound, of, rng.random(len(sound)))
        return cluster

    def conclude(self, stores: Sequence[RunStore]) -> CurationRecord:
        """The verdict on every cluster."""
        backbone = VectorReader(stores[0]).backbone
        reasons = apply_rules(self._met, self._objects, self._config)
        kept = np.where([reason is None for reason in reasons], self._objects, 0)
        weight = balance_weights(kept, power=self._config.balance, most=self._config.most_weight)
        runs = [
            CuratedRun(store.url, store.read_run().digest, *self._runs.get(number, (0, 0)))
            for number, store in enumerate(stores)
        ]
        return CurationRecord(
            schema_version=SCHEMA_VERSION,
            fossilray=__version__,
            runs=tuple(runs),
            backbone=(backbone.name, backbone.sha256) if backbone.sha256 else (backbone.name,),
            config=self._config,
            objects=sum(run.objects for run in runs),
            kept=int(kept.sum()),
            without_pixels=self._without[WITHOUT_PIXELS],
            without_vector=self._without[WITHOUT_VECTOR],
            clusters=tuple(
                self._cluster(int(number), reasons[number], float(weight[number]))
                for number in np.flatnonzero(self._objects)
            ),
        )

    def _cluster(self, number: int, reason: str | None, weight: float) -> CuratedCluster:
        objects = int(self._objects[number])
        longest_um, opacity = (self._sums[number] / objects).tolist()
        met = zip(RULES, (self._met[number] / objects).tolist(), strict=True)
        return CuratedCluster(
            cluster=number,
            family=int(self._clusters.family[number]),
            objects=objects,
            reason=reason,
            weight=weight,
            met={rule: share for rule, share in met if share},
            longest_um=longest_um,
            opacity=opacity,
        )


def _spooled(slide: SlideObjects, cluster: NDArray[np.int32]) -> pa.Table:
    names = pa.array([slide.slide_id] * len(slide), pa.string())
    return pa.Table.from_arrays([names, pa.array(slide.object_id), pa.array(cluster)], schema=_SPOOL_SCHEMA)


def _write_table(spool: IO[bytes], sink: StreamedFile, record: CurationRecord, clusters: int) -> None:
    """The table, from the cluster of each object and what became of the clusters."""
    family = np.full(clusters + 2, -1, np.int32)
    weight = np.zeros(clusters + 2, np.float32)
    reason: list[str | None] = ["no cluster"] * (clusters + 2)
    # The last two places are what -1 and -2 lead to.
    reason[WITHOUT_PIXELS], reason[WITHOUT_VECTOR] = "without pixels", "without vector"
    for one in record.clusters:
        family[one.cluster], weight[one.cluster], reason[one.cluster] = one.family, one.weight, one.reason
    kept = np.array([why is None for why in reason])
    reasons = pa.array(reason, pa.string())
    schema = CURATION_SCHEMA.with_metadata({FOOTER_KEY: record.to_json()})
    with (
        pq.ParquetFile(spool) as source,
        pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for batch in source.iter_batches(batch_size=ROW_GROUP_ROWS):
            cluster = batch["cluster"].to_numpy()
            columns = {
                "slide_id": batch["slide_id"],
                "object_id": batch["object_id"],
                "cluster": pa.array(np.maximum(cluster, -1)),
                "family": pa.array(family[cluster]),
                "keep": pa.array(kept[cluster]),
                "weight": pa.array(weight[cluster]),
                "reason": reasons.take(pa.array(cluster % (clusters + 2))),
            }
            writer.write_table(
                pa.Table.from_arrays([columns[field.name] for field in schema], schema=schema),
                row_group_size=ROW_GROUP_ROWS,
            )
