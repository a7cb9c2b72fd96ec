"""Names of the metrics that Prometheus collects."""

from __future__ import annotations

from fossilray.jobs.scheduler.metrics import DRIVER, WORKER


def exported_names() -> frozenset[str]:
    """Names of all series."""
    return frozenset(name for metric in (*DRIVER, *WORKER) for name in metric.series)
