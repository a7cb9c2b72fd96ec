"""Write fossilray.json, the Grafana dashboard of a job; run it after a change here and commit what it writes.

python deploy/grafana/make_dashboard.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCHEMA_VERSION = 39
"""Of the dashboard JSON; Grafana 11 writes it, and later ones bring older files up to theirs."""
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
RUN = 'run=~"$run"'


def main() -> None:
    """Write the file beside this one."""
    (HERE / "fossilray.json").write_text(json.dumps(dashboard(), indent=1) + "\n", encoding="utf-8")


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    panels = [*_laid_out(_ROWS)]
    return {
        "uid": "fossilray-job",
        "title": "fossilray: slides on a Ray cluster",
        "description": "What drivers and workers of `fossilray process` tell through Ray's metrics.",
        "tags": ["fossilray", "ray"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "utc",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": [_source_variable(), _run_variable()]},
        "panels": panels,
    }


def _source_variable() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "regex": "",
        "hide": 0,
        "refresh": 1,
        "multi": False,
        "includeAll": False,
        "options": [],
    }


def _run_variable() -> dict[str, Any]:
    return {
        "name": "run",
        "label": "Run directory",
        "type": "query",
        "datasource": SOURCE,
        "definition": "label_values(ray_fossilray_slides_asked, run)",
        "query": {"query": "label_values(ray_fossilray_slides_asked, run)", "refId": "runs"},
        "hide": 0,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "options": [],
    }


def _stat(
    title: str, unit: str, expression: str, description: str, *, red_above: float | None = None
) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if red_above is not None:
        steps.append({"color": "red", "value": red_above})
    return {
        "type": "stat",
        "title": title,
        "description": description,
        "width": 4,
        "height": 4,
        "targets": [_target("A", expression, "", instant=True)],
        "fieldConfig": {
            "defaults": {"unit": unit, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "options": {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "none",
            "textMode": "auto",
        },
    }


def _graph(
    title: str, unit: str, lines: dict[str, str], description: str, *, stacked: bool = False, width: int = 8
) -> dict[str, Any]:
    """lines: PromQL by legend."""
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 20 if stacked else 5,
        "showPoints": "never",
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }
    return {
        "type": "timeseries",
        "title": title,
        "description": description,
        "width": width,
        "height": 8,
        "targets": [
            _target(chr(ord("A") + number), expression, legend)
            for number, (legend, expression) in enumerate(lines.items())
        ],
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": custom}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def _target(letter: str, expression: str, legend: str, *, instant: bool = False) -> dict[str, Any]:
    return {
        "refId": letter,
        "datasource": SOURCE,
        "expr": expression,
        "legendFormat": legend or "__auto",
        "instant": instant,
        "range": not instant,
    }


def _rate(name: str, by: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} (rate(ray_fossilray_{name}_total{{{RUN}}}[$__rate_interval]))"


def _sum(name: str) -> str:
    return f"sum(ray_fossilray_{name}{{{RUN}}})"


def _laid_out(rows: list[tuple[str, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Panels in rows 24 columns wide, each row under its heading."""
    placed: list[dict[str, Any]] = []
    y = 0
    for title, panels in rows:
        heading = {"type": "row", "title": title, "collapsed": False, "panels": []}
        placed.append({"id": len(placed) + 1, **heading, "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}})
        y, x = y + 1, 0
        for panel in panels:
            width, height = panel.pop("width"), panel.pop("height")
            if x + width > 24:
                y, x = y + height, 0
            position = {"h": height, "w": width, "x": x, "y": y}
            placed.append({"id": len(placed) + 1, "datasource": SOURCE, **panel, "gridPos": position})
            x += width
        y += placed[-1]["gridPos"]["h"]
    return placed


_LEFT = f"({_sum('slides_asked')} - {_sum('slides_finished')})"
_ROWS: list[tuple[str, list[dict[str, Any]]]] = [
    (
        "The job",
        [
            _stat(
                "finished",
                "percentunit",
                f"{_sum('slides_finished')} / {_sum('slides_asked')}",
                "Slides committed or given up, before or now, of those the driver was given.",
            ),
            _stat("left", "short", _LEFT, "Slides that are not committed or given up."),
            _stat(
                "slides an hour",
                "short",
                f"3600 * sum(rate(ray_fossilray_slides_committed_total{{{RUN}}}[30m]))",
                "Over the last half hour.",
            ),
            _stat(
                "to the end",
                "s",
                f"{_LEFT} / sum(rate(ray_fossilray_slides_committed_total{{{RUN}}}[30m]))",
                "At the rate of the last half hour.",
            ),
            _stat(
                "since the last commit",
                "s",
                f"time() - max(ray_fossilray_last_commit_timestamp_seconds{{{RUN}}})",
                "Grows while nothing is committed.",
                red_above=3600,
            ),
            _stat(
                "tiles lost",
                "percentunit",
                f"{_sum('tiles_lost_total')} / {_sum('tiles_wanted_total')} or vector(0)",
                "Of the tiles that are not blank, those that could not be read.",
                red_above=0.01,
            ),
        ],
    ),
    (
        "Progress",
        [
            _graph(
                "slides an hour",
                "short",
                {
                    "committed": f"3600 * {_rate('slides_committed')}",
                    "failed": f"3600 * {_rate('slides_failed')}",
                    "tried again": f"3600 * {_rate('slides_retried')}",
                },
                "What came back from workers.",
            ),
            _graph("objects a second", "short", {"objects": _rate("objects")}, "Of slides committed."),
            _graph(
                "slides by state",
                "short",
                {"{{state}}": f"sum by (state) (ray_fossilray_slides{{{RUN}}})"},
                "As `fossilray status` counts them; rejected are files that are no slides.",
                stacked=True,
            ),
            _graph(
                "failures",
                "short",
                {
                    "{{error}}": f"sum by (error) (ray_fossilray_slides_failed_total{{{RUN}}})",
                    "quarantined: {{error}}": f"sum by (error) (ray_fossilray_slides_quarantined_total{{{RUN}}})",
                    "workers lost: {{error}}": f"sum by (error) (ray_fossilray_workers_lost_total{{{RUN}}})",
                },
                "Since the driver was started; `fossilray failures` lists them.",
            ),
        ],
    ),
    (
        "Workers",
        [
            _graph(
                "workers",
                "short",
                {
                    "ready": _sum("workers"),
                    "slides in flight": _sum("slides_in_flight"),
                },
                "Idle or busy; a gap between the two is idle.",
            ),
            _graph(
                "busy workers by stage",
                "short",
                {
                    "{{stage}}": f"sum by (stage) (ray_fossilray_workers_in_stage{{{RUN}}})",
                },
                "Stage of each worker at the last status request.",
                stacked=True,
            ),
            _graph(
                "network waits",
                "percentunit",
                {
                    "share of the time": f"1 - {_rate('network_seconds')} / {_rate('slide_seconds')}",
                },
                "Share of the time with a slide in which no batch was at a network: the GPU waits for reading, "
                "cutting or the store. More cores a GPU, or more read_threads, lower it.",
            ),
            _graph(
                "queues of a worker",
                "short",
                {
                    "windows before the readers": f"avg(ray_fossilray_waiting_reads{{{RUN}}})",
                    "batches before the network": f"avg(ray_fossilray_waiting_batches{{{RUN}}})",
                },
                "Means over workers. Batches near 0 and windows above: reading is what limits.",
            ),
            _graph(
                "memory of workers",
                "bytes",
                {
                    "largest": f"max(ray_fossilray_resident_bytes{{{RUN}}})",
                    "mean": f"avg(ray_fossilray_resident_bytes{{{RUN}}})",
                },
                "Resident memory of the workers' processes.",
            ),
            _graph(
                "read",
                "Bps",
                {
                    "fetched from the store": _rate("fetched_bytes"),
                    "read from files": _rate("read_bytes"),
                    "crops and vectors written": _rate("array_bytes"),
                },
                "Counted when a slide ends, so it comes in steps.",
            ),
        ],
    ),
    (
        "Where the time goes",
        [
            _graph(
                "mean seconds of a slide by stage",
                "s",
                {
                    "{{stage}}": f'sum by (stage) (rate(ray_fossilray_stage_time_seconds_total{{{RUN},stage!="total"}}'
                    f"[$__rate_interval])) / on () group_left () {_rate('slides_committed')}",
                },
                "embed lies within crops.",
                stacked=True,
                width=12,
            ),
            _graph(
                "seconds of a slide",
                "s",
                {
                    "median": "histogram_quantile(0.5, sum by (le) (rate("
                    f'ray_fossilray_stage_seconds_bucket{{{RUN},stage="total"}}[$__rate_interval])))',
                    "95 of 100 below": "histogram_quantile(0.95, sum by (le) (rate("
                    f'ray_fossilray_stage_seconds_bucket{{{RUN},stage="total"}}[$__rate_interval])))',
                },
                "From a histogram of few buckets: rough.",
                width=12,
            ),
        ],
    ),
    (
        "What is held",
        [
            _graph(
                "held now",
                "short",
                {
                    "GPUs": _rate("gpu_seconds_held"),
                    "cores": _rate("core_seconds_held"),
                },
                "By workers, busy or idle.",
                width=12,
            ),
            _graph(
                "hours held",
                "h",
                {
                    "GPU-hours": f"{_sum('gpu_seconds_held_total')} / 3600",
                    "core-hours": f"{_sum('core_seconds_held_total')} / 3600",
                },
                "Since the driver was started; `fossilray status` adds up all drivers of a run, and the money.",
                width=12,
            ),
        ],
    ),
]

if __name__ == "__main__":
    main()
