"""The page of a curation: objects left out with reasons, and a contact sheet per cluster. No script, no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from fossilray.render.crops import jpeg_uri
from fossilray.render.html import template_environment
from fossilray.training.curation.record import CuratedCluster, CurationRecord
from fossilray.training.curation.rules import RULES
from fossilray.training.curation.sheets import ClusterSheets

_JPEG_QUALITY = 78


@dataclass(frozen=True)
class ShownCluster:
    """A cluster with its contact sheet as a data URI."""

    record: CuratedCluster
    uri: str
    width_px: int
    height_px: int


@dataclass(frozen=True)
class ShownFamily:
    """Clusters with similar centres."""

    family: int
    clusters: tuple[ShownCluster, ...]
    objects: int
    kept: int


def render_curation_page(record: CurationRecord, sheets: ClusterSheets) -> str:
    """Render the page as HTML."""
    environment = template_environment()
    shown = [_show(cluster, sheets) for cluster in record.clusters]
    return environment.get_template("curation.html.j2").render(
        record=record,
        families=[_family(number, shown) for number in sorted({cluster.record.family for cluster in shown})],
        left_out=_left_out(record),
        unreadable=sheets.unreadable,
        settings=yaml.safe_dump(record.config.model_dump(mode="json"), sort_keys=False),
    )


def _show(cluster: CuratedCluster, sheets: ClusterSheets) -> ShownCluster:
    sheet = sheets.sheets[cluster.cluster]
    return ShownCluster(cluster, jpeg_uri(sheet, quality=_JPEG_QUALITY), sheet.shape[1], sheet.shape[0])


def _family(number: int, shown: Sequence[ShownCluster]) -> ShownFamily:
    clusters = tuple(cluster for cluster in shown if cluster.record.family == number)
    return ShownFamily(
        number,
        clusters,
        objects=sum(cluster.record.objects for cluster in clusters),
        kept=sum(cluster.record.objects for cluster in clusters if cluster.record.reason is None),
    )


def _left_out(record: CurationRecord) -> list[tuple[str, int, int]]:
    """Return (reason, clusters, objects) for every reason with objects."""
    rows = []
    for rule in RULES:
        clusters = [cluster for cluster in record.clusters if cluster.reason == rule]
        rows.append((rule, len(clusters), sum(cluster.objects for cluster in clusters)))
    rows += [("without pixels", 0, record.without_pixels), ("without vector", 0, record.without_vector)]
    return [row for row in rows if row[2]]
