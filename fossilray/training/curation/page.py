"""The page about a curation: what was left out and why, and a contact sheet per cluster. No network, no script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from fossilray.render.crops import jpeg_uri
from fossilray.render.html import template_environment
from fossilray.training.curation.rules import RULES
from fossilray.training.curation.sheets import Sheets

if TYPE_CHECKING:
    from fossilray.training.curation.record import CuratedCluster, CurationRecord

PAGE_NAME = "curation.html.j2"
_QUALITY = 78


@dataclass(frozen=True)
class ShownCluster:
    """A cluster with its sheet."""

    facts: CuratedCluster
    uri: str
    width_px: int
    height_px: int


@dataclass(frozen=True)
class ShownFamily:
    """Clusters whose centres lie together."""

    family: int
    clusters: tuple[ShownCluster, ...]
    objects: int
    kept: int


def render_page(record: CurationRecord, sheets: Sheets) -> str:
    """The page as HTML."""
    environment = template_environment()
    shown = [_show(cluster, sheets) for cluster in record.clusters]
    return environment.get_template(PAGE_NAME).render(
        record=record,
        families=[_family(number, shown) for number in sorted({one.facts.family for one in shown})],
        left_out=_left_out(record),
        unreadable=sheets.unreadable,
        settings=yaml.safe_dump(record.config.model_dump(mode="json"), sort_keys=False),
    )


def _show(cluster: CuratedCluster, sheets: Sheets) -> ShownCluster:
    sheet = sheets.sheets[cluster.cluster]
    return ShownCluster(cluster, jpeg_uri(sheet, quality=_QUALITY), sheet.shape[1], sheet.shape[0])


def _family(number: int, shown: Sequence[ShownCluster]) -> ShownFamily:
    clusters = tuple(one for one in shown if one.facts.family == number)
    return ShownFamily(
        number,
        clusters,
        objects=sum(one.facts.objects for one in clusters),
        kept=sum(one.facts.objects for one in clusters if one.facts.reason is None),
    )


def _left_out(record: CurationRecord) -> list[tuple[str, int, int]]:
    """(reason, clusters, objects) of all that is left out."""
    found = []
    for rule in RULES:
        clusters = [one for one in record.clusters if one.reason == rule]
        found.append((rule, len(clusters), sum(one.objects for one in clusters)))
    found += [("without pixels", 0, record.without_pixels), ("without vector", 0, record.without_vector)]
    return [one for one in found if one[2]]
