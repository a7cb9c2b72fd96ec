"""The dashboard and the alerts query metrics that exist, in PromQL that parses, in files that Grafana loads."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from support.metric_names import exported_names

from fossilray.jobs.scheduler.metrics import DRIVER, WORKER

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
LABELS = {label for metric in (*DRIVER, *WORKER) for label in ("run", "le", *metric.labels)}
UNITS = {"short", "percentunit", "s", "h", "bytes", "Bps"}
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "fossilray.json").read_text())
ALERTS: dict[str, Any] = yaml.safe_load((FOLDER / "alerts.yaml").read_text())


def test_the_dashboard_is_the_one_that_its_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("make_dashboard", FOLDER / "make_dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.dashboard() == DASHBOARD, "run `python deploy/grafana/make_dashboard.py`"


def test_the_dashboard_loads() -> None:
    assert list(faults(DASHBOARD)) == []


def test_every_metric_is_on_the_dashboard() -> None:
    queried = {name for expression in expressions(DASHBOARD) for name in series(expression)}
    shown = {metric.name for metric in (*DRIVER, *WORKER) if queried & set(metric.series)}
    # What adds nothing to others on the page.
    assert {metric.name for metric in (*DRIVER, *WORKER)} - shown == {"fossilray_scanned_mm2"}


@pytest.mark.parametrize("rule", ALERTS["groups"][0]["rules"], ids=lambda rule: rule["alert"])
def test_a_rule_queries_metrics_that_exist(rule: dict[str, Any]) -> None:
    assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"\d+[smh]", rule["for"])
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}
    assert rule["annotations"].keys() == {"summary", "description"}
    names = series(rule["expr"])
    assert names
    assert names <= exported_names()
    # A rule without a limit would always be on.
    assert re.search(r"> [\d.]+", rule["expr"])
    for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
        assert label in LABELS


def test_rules_lie_in_a_file_as_prometheus_reads_it() -> None:
    assert ALERTS.keys() == {"groups"}
    (group,) = ALERTS["groups"]
    assert group.keys() == {"name", "rules"}
    alerts = [rule["alert"] for rule in group["rules"]]
    assert len(set(alerts)) == len(alerts)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("panels", 1, "id"), 3, "id 3 twice"),
        (("panels", 2, "gridPos", "x"), 1, "overlap"),
        (("panels", 2, "gridPos", "w"), 30, "wider than the page"),
        (
            ("panels", 1, "targets", 0, "expr"),
            "rate(ray_fossilray_slides_comitted_total[5m])",
            "no metric is",
        ),
        (("panels", 1, "targets", 0, "expr"), "rate(ray_fossilray_objects_total[5m]", "no PromQL"),
        (("panels", 1, "targets", 0, "expr"), 'ray_fossilray_workers{runs="a"}', "label runs"),
        (("panels", 1, "datasource", "uid"), "abc", "datasource"),
        (("templating", "list"), [], "datasource"),
        (("schemaVersion",), "39", "schemaVersion"),
        (("panels", 1, "fieldConfig", "defaults", "unit"), "percents", "unit"),
    ],
)
def test_a_planted_mistake_is_found(keys: tuple[str | int, ...], value: Any, message: str) -> None:
    spoiled = copy.deepcopy(DASHBOARD)
    at: Any = spoiled
    for step in keys[:-1]:
        at = at[step]
    at[keys[-1]] = value
    assert any(message in fault for fault in faults(spoiled))


def faults(dashboard: dict[str, Any]) -> Iterator[str]:
    """What would keep Grafana from loading the dashboard, or its panels from showing anything."""
    if not isinstance(dashboard["schemaVersion"], int) or dashboard["schemaVersion"] < 36:
        yield "schemaVersion is no number of a recent one"
    if not re.fullmatch(r"[\w-]{1,40}", dashboard["uid"]) or not dashboard["title"]:
        yield "no uid or title"
    variables = {one["name"]: one for one in dashboard["templating"]["list"]}
    if variables.get("datasource", {}).get("type") != "datasource":
        yield "no variable datasource"
    seen: set[int] = set()
    for panel in dashboard["panels"]:
        if panel["id"] in seen:
            yield f"id {panel['id']} twice"
        seen.add(panel["id"])
        keys = panel["gridPos"]
        if keys.keys() != {"h", "w", "x", "y"} or keys["x"] < 0 or keys["x"] + keys["w"] > 24:
            yield f"{panel['title']}: wider than the page"
        if panel["type"] == "row":
            continue
        yield from panel_faults(panel)
    for one, other in itertools.combinations(dashboard["panels"], 2):
        if overlap(one["gridPos"], other["gridPos"]):
            yield f"{one['title']} and {other['title']} overlap"
    for variable in re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"])):
        if variable not in variables and not variable.startswith("__"):
            yield f"no variable {variable}"


def panel_faults(panel: dict[str, Any]) -> Iterator[str]:
    if panel["type"] not in ("stat", "timeseries") or not panel["title"] or not panel["description"]:
        yield f"{panel['title']}: unknown type, or without a description"
    if panel["fieldConfig"]["defaults"]["unit"] not in UNITS:
        yield f"{panel['title']}: unit"
    if panel["datasource"] != {"type": "prometheus", "uid": "${datasource}"}:
        yield f"{panel['title']}: datasource is not that of the variable"
    letters = [target["refId"] for target in panel["targets"]]
    if not letters or len(set(letters)) != len(letters):
        yield f"{panel['title']}: refId twice, or none"
    for target in panel["targets"]:
        try:
            unknown = series(target["expr"]) - exported_names()
            labels = set(re.findall(r"[{,]\s*(\w+)\s*(?:=~|!=|!~|=)", target["expr"])) - LABELS
            labels |= set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) - LABELS
        except ValueError as error:
            yield f"{panel['title']}: no PromQL: {error}"
            continue
        for name in unknown:
            yield f"{panel['title']}: no metric is {name}"
        for label in labels:
            yield f"{panel['title']}: label {label}"


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


def expressions(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))


def series(expression: str) -> set[str]:
    """Names of all figures in a PromQL expression; ValueError if it is malformed."""
    found: set[str] = set()

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.add(node.name)
        return True

    tree = promql_parser.parse(expression.replace("$__rate_interval", "5m").replace("$run", ".*"))
    promql_parser.walk(tree, visit)
    return found
