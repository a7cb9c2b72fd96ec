"""Curation of the crops of runs for training: clusters of similar crops, rules that leave clusters out, and weights.

Memory holds a sample of vectors, one slide and the statistics of each cluster; everything else is streamed. The table
is written atomically and last, so an interrupted curation leaves no table.
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
from fossilray.training.curation.page import render_curation_page
from fossilray.training.curation.record import CuratedCluster, CuratedRun, CurationRecord
from fossilray.training.curation.rules import (
    RULES,
    TypicalSharpness,
    apply_rules,
    balance_weights,
    meets_rules,
)
from fossilray.training.curation.sample import sample_runs
from fossilray.training.curation.sheets import ClusterSample, draw_sheets

WITHOUT_PIXELS, WITHOUT_VECTOR = -1, -2
"""Cluster numbers of objects without a cluster, in temporary data; the table has -1 for both."""

_SPOOL_SCHEMA = pa.schema([("slide_id", pa.string()), ("object_id", pa.int32()), ("cluster", pa.int32())])


def curate_runs(
    stores: Sequence[RunStore],
    out: str,
    config: CurationConfig,
    *,
    access: StoreConfig | None = None,
    on_slide: Callable[[], None] = lambda: None,
) -> CurationRecord:
    """Write a table with the schema CURATION_SCHEMA and a page of contact sheets.

    Equal runs, configuration and package versions give equal bytes.

    Args:
        stores: Runs or compacted datasets.
        out: Parquet file, local or s3://, which is replaced; the page has the same name with suffix .html.
        config: Clusters, rules and weights.
        access: Credentials and settings of object stores.
        on_slide: Called after each slide.

    Returns:
        The record in the table's footer.

    Raises:
        UsageError: The runs cannot be curated together, contain no vectors, or `out` does not end in .parquet.
        StoreError: A run cannot be read, or the table cannot be written.
    """
    files, name = split_table_path(out, access or StoreConfig())
    check_runs(stores)
    sample = sample_runs(stores, config)
    clusters = find_clusters(
        sample.vectors, clusters=config.clusters, families=config.families, seed=config.seed
    )
    typical = TypicalSharpness.of(sample)
    with tempfile.TemporaryFile() as spool:
        statistics = ClusterStatistics(clusters, typical, config)
        with pq.ParquetWriter(spool, _SPOOL_SCHEMA, compression="zstd") as writer:
            for run, store in enumerate(stores):
                for slide in read_slides(store, run=run):
                    writer.write_table(_cluster_rows(slide, statistics.add(slide)))
                    on_slide()
        record = statistics.finish(stores)
        page = render_curation_page(record, draw_sheets(stores, statistics.sample, clusters=len(clusters)))
        with stream_to(files, name.removesuffix(".parquet") + ".html") as sink:
            sink.write(page.encode())
        spool.seek(0)
        with stream_to(files, name) as sink:
            _write_table(spool, sink, record, len(clusters))
    return record


class ClusterStatistics:
    """Statistics of each cluster, accumulated slide by slide."""

    def __init__(self, clusters: Clusters, typical: TypicalSharpness, config: CurationConfig) -> None:
        count = len(clusters)
        self._clusters, self._typical, self._config = clusters, typical, config
        self._objects = np.zeros(count, np.int64)
        self._met = np.zeros((count, len(RULES)), np.int64)
        self._sums = np.zeros((count, 2))
        self._without = {WITHOUT_PIXELS: 0, WITHOUT_VECTOR: 0}
        self._runs: dict[int, list[int]] = {}
        self.sample = ClusterSample.empty(shown=config.shown)

    def add(self, slide: SlideObjects) -> NDArray[np.int32]:
        """Add a slide; return the cluster of each object (n,), or WITHOUT_PIXELS or WITHOUT_VECTOR."""
        cluster = self._clusters.assign(slide.vectors)
        cluster[slide.without_vector] = WITHOUT_VECTOR
        cluster[slide.without_pixels] = WITHOUT_PIXELS
        for reason in self._without:
            self._without[reason] += int((cluster == reason).sum())
        rows = np.flatnonzero(cluster >= 0)
        cluster_of_row = cluster[rows]
        met = meets_rules(slide, self._typical, self._config)[rows].astype(np.int64)
        np.add.at(self._objects, cluster_of_row, 1)
        np.add.at(self._met, cluster_of_row, met)
        np.add.at(self._sums, cluster_of_row, np.stack([slide.longest_um, slide.opacity], axis=1)[rows])
        counts = self._runs.setdefault(slide.run, [0, 0])
        rng = np.random.default_rng([self._config.seed, slide.run, counts[0]])
        counts[0], counts[1] = counts[0] + 1, counts[1] + len(slide)
        self.sample = self.sample.add(slide, rows, cluster_of_row, rng.random(len(rows)))
        return cluster

    def finish(self, stores: Sequence[RunStore]) -> CurationRecord:
        """Apply the rules, weight the clusters and return the record."""
        backbone = VectorReader(stores[0]).backbone
        reasons = apply_rules(self._met, self._objects, self._config)
        kept = np.where([reason is None for reason in reasons], self._objects, 0)
        weight = balance_weights(kept, power=self._config.balance, limit=self._config.most_weight)
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


def _cluster_rows(slide: SlideObjects, cluster: NDArray[np.int32]) -> pa.Table:
    names = pa.array([slide.slide_id] * len(slide), pa.string())
    return pa.Table.from_arrays([names, pa.array(slide.object_id), pa.array(cluster)], schema=_SPOOL_SCHEMA)


def _write_table(spool: IO[bytes], sink: StreamedFile, record: CurationRecord, clusters: int) -> None:
    """Write the table from the cluster of each object and the record of the clusters."""
    family = np.full(clusters + 2, -1, np.int32)
    weight = np.zeros(clusters + 2, np.float32)
    reason: list[str | None] = ["no cluster"] * (clusters + 2)
    # The last two entries are those at index -1 and -2.
    reason[WITHOUT_PIXELS], reason[WITHOUT_VECTOR] = "without pixels", "without vector"
    for curated in record.clusters:
        family[curated.cluster] = curated.family
        weight[curated.cluster] = curated.weight
        reason[curated.cluster] = curated.reason
    kept = np.array([text is None for text in reason])
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
