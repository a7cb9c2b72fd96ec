"""The API: what pages show, and labels that are taken, corrected, withdrawn and refused."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from PIL import Image as Pillow
from support.classified_run import predict
from support.served import an_act, client_of, send
from support.small_run import HOSTILE_WELL, WELL, write_small_run

from fossilray.analysis.stratigraphy.chart import ChartOptions, compute_chart
from fossilray.labels.audit.audit_record import read_audit
from fossilray.labels.audit.draw import draw_audit
from fossilray.labels.audit.population import AuditRequest
from fossilray.labels.determinations import read_determinations
from fossilray.labels.label_set import LabelSet
from fossilray.serve import application
from fossilray.store import RunStore
from fossilray.store.arrays.crops import read_crops
from fossilray.store.run.layout import arrays_path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    store = write_small_run(tmp_path_factory.mktemp("served") / "run")
    predict(store, "head")
    return store


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return tmp_path / "labels"


@pytest.fixture
def client(run: RunStore, labels: Path) -> Iterator[TestClient]:
    with client_of(run, labels=labels) as opened:
        yield opened


def get(client: TestClient, path: str, **query: Any) -> Any:
    answer = client.get(f"/api{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_run_at_a_glance(client: TestClient, run: RunStore, labels: Path) -> None:
    assert get(client, "/session") == {"name": "ada", "may_label": True, "runs": ["run"], "version": "0.1.0"}
    facts = get(client, "/runs/run")
    assert (facts["slides"], facts["objects"], facts["failed"]) == (4, 77, 1)
    assert {
        well["well"]: (well["slides"], well["objects"], well["top_m"], well["base_m"])
        for well in facts["wells"]
    } == {
        WELL: (3, 77, 2030.0, 2080.0),
        HOSTILE_WELL: (1, 0, None, None),
    }
    assert (facts["predictions"], facts["labels"], facts["held_objects"]) == ("head", str(labels), None)
    assert [slide["slide_id"] for slide in get(client, "/runs/run/slides")] == [
        "a-2030",
        "b-2050",
        "c-2080",
        "d-empty",
    ]


def test_a_slide_names_its_neighbours_and_its_objects(client: TestClient, run: RunStore) -> None:
    slide = get(client, "/runs/run/slides/b-2050")
    assert (slide["previous"], slide["next"], slide["bounds"]) == (
        "a-2030",
        "c-2080",
        [3000, 5000, 15000, 13000],
    )
    columns = get(client, "/runs/run/slides/b-2050/objects")
    assert columns["object_id"] == list(range(25))
    assert {len(columns[name]) for name in ("x_min", "y_max", "score", "taxon", "confidence")} == {25}
    assert columns["taxa"] == ["Alnus", "Betula", "Corylus"]
    assert columns["confidence"][-1] is None
    assert get(client, "/runs/run/slides/d-empty/objects")["object_id"] == []


def test_a_crop_is_the_stored_one_and_may_be_kept_for_ever(client: TestClient, run: RunStore) -> None:
    footer = run.footer("a-2030")
    assert footer is not None
    answer = client.get(f"/api/runs/run/slides/a-2030/{footer.attempt}/crops/7.jpg")
    assert "immutable" in answer.headers["cache-control"]
    stored = read_crops(run, arrays_path("a-2030", footer.attempt), [7])[0]
    assert np.array_equal(np.asarray(Pillow.open(io.BytesIO(answer.content))), stored)
    for path in (
        f"{footer.attempt}/crops/40.jpg",
        "0123456789abcdef/crops/7.jpg",
        f"{footer.attempt}/crops/-1.jpg",
    ):
        assert client.get(f"/api/runs/run/slides/a-2030/{path}").status_code == 404
    # The painted run has no slide file.
    assert (
        "cannot be shown"
        in client.get(f"/api/runs/run/slides/a-2030/{footer.attempt}/tiles/0/0_0.jpg").json()["detail"]
    )


def test_a_chart_is_that_of_the_command_with_the_labels_of_this_minute(
    client: TestClient, run: RunStore, labels: Path
) -> None:
    send(client, an_act(run, "a-2030", 1, "Quercus"))
    chart = get(client, "/runs/run/chart", well=WELL)
    determinations = read_determinations(labels, run)
    expected = compute_chart(run, WELL, ChartOptions(head="head", determinations=determinations))
    taxa = [taxon["name"] for taxon in chart["taxa"]]
    assert taxa == list(expected.taxa)
    assert np.allclose(chart["counts"], expected.counts, atol=0.06)
    assert np.allclose(chart["high"], np.nan_to_num(expected.estimate.high), atol=1e-3)
    assert chart["labelled"][0][taxa.index("Quercus")] == 1
    assert chart["is_present"][0][taxa.index("Quercus")]
    # A bar leads to the crops that it counts.
    for row, sample in enumerate(chart["samples"]):
        for column, taxon in enumerate(chart["taxa"]):
            chosen = {"taxon": taxon["classes"], "slide": sample["slides"], "status": "unlabelled"}
            assert get(client, "/runs/run/objects", **chosen)["total"] == chart["predicted"][row][column]
    by_name = get(client, "/runs/run/chart", well=WELL, order="name", leave_out=["Alnus"])
    assert [taxon["name"] for taxon in by_name["taxa"]] == ["Betula", "Corylus", "Quercus"]
    unknown = client.get("/api/runs/run/chart", params={"well": "none"})
    assert unknown.status_code == 404
    assert "no committed slides of well" in unknown.json()["detail"]


def test_a_query_gives_rows_and_files_and_refuses_what_is_no_select(client: TestClient) -> None:
    sql = "SELECT slide_id, count(*) AS n, list(object_id)[:2] AS ids FROM objects GROUP BY ALL ORDER BY ALL"
    result = get(client, "/runs/run/query", sql=sql)
    assert [column["name"] for column in result["columns"]] == ["slide_id", "n", "ids"]
    assert [row[:2] for row in result["rows"]] == [["a-2030", 40], ["b-2050", 25], ["c-2080", 12]]
    assert result["is_whole"]
    saved = client.get("/api/runs/run/query.csv", params={"sql": sql})
    assert saved.text.splitlines()[1].startswith('"a-2030",40,')
    assert "attachment" in saved.headers["content-disposition"]
    parquet = client.get("/api/runs/run/query.parquet", params={"sql": sql}).content
    assert pq.read_table(io.BytesIO(parquet))["n"].to_pylist() == [40, 25, 12]
    odd = get(
        client, "/runs/run/query", sql="SELECT 'nan'::FLOAT AS a, 2::HUGEINT ** 70 AS a, DATE '2026-01-02'"
    )
    assert odd["rows"] == [["nan", 2.0**70, "2026-01-02"]]
    for wrong in ("COPY (SELECT 1) TO 'x'", "SELECT * FROM read_text('/etc/passwd')", "SELECT"):
        refused = client.get("/api/runs/run/query", params={"sql": wrong})
        assert refused.status_code == 422
        assert isinstance(refused.json()["detail"], str)


def test_the_examples_of_the_page_are_queries(client: TestClient) -> None:
    text = (Path(application.__file__).parent / "static" / "query.js").read_text(encoding="utf-8")
    examples = re.findall(r'^  \["[^"]+", ("(?:[^"\\]|\\.)*")\],$', text, re.MULTILINE)
    assert len(examples) == 5
    for example in examples:
        assert get(client, "/runs/run/query", sql=json.loads(example))["rows"]


def test_a_grid_has_pages_and_conditions(client: TestClient) -> None:
    first = get(client, "/runs/run/objects", count=50)
    second = get(client, "/runs/run/objects", count=50, first=50)
    assert (first["total"], len(first["crops"]), len(second["crops"])) == (77, 50, 27)
    ids = [(crop["slide_id"], crop["object_id"]) for crop in first["crops"] + second["crops"]]
    assert len(set(ids)) == 77
    sure = get(client, "/runs/run/objects", taxon="Alnus", least=0.6, order="most-confident")["crops"]
    assert sure
    assert {crop["taxon"] for crop in sure} == {"Alnus"}
    values = [crop["confidence"] for crop in sure]
    assert values == sorted(values, reverse=True)
    assert min(values) >= 0.6
    assert get(client, "/runs/run/objects", well=HOSTILE_WELL)["total"] == 0
    assert get(client, "/runs/run/objects", slide="c-2080")["total"] == 12
    assert client.get("/api/runs/run/objects", params={"order": "odd"}).status_code == 422
    assert client.get("/api/runs/run/objects", params={"count": 100000}).status_code == 422


def test_a_label_is_seen_counted_and_becomes_a_round(client: TestClient, run: RunStore, labels: Path) -> None:
    act = an_act(
        run, "a-2030", 3, "cf. Spiniferites ramosus", states={"situation": "reworked", "unsure": True}
    )
    assert send(client, act) == {"accepted": [act["id"]], "refused": {}}
    (crop,) = get(client, "/runs/run/objects", status="labelled")["crops"]
    assert (crop["object_id"], crop["label"]["states"]["name"], crop["label"]["who"]) == (
        3,
        "cf. Spiniferites ramosus",
        "ada",
    )
    assert get(client, "/runs/run/objects", status="unlabelled")["total"] == 76
    assert get(client, "/runs/run/objects", status="unsure")["total"] == 1
    taxa = {taxon["name"]: taxon for taxon in get(client, "/runs/run/taxa")}
    assert (taxa["Spiniferites ramosus"]["labelled"], taxa["Spiniferites ramosus"]["doubtful"]) == (1, 1)
    assert get(client, "/runs/run/objects", label="Spiniferites ramosus")["total"] == 1
    assert not LabelSet.open(labels).rounds()
    client.app.state.runs["run"].desk.commit()  # type: ignore[attr-defined]
    (label,) = LabelSet.open(labels).labels().consensus.values()
    assert (label.object_id, label.who, label.occurrence.taxon, label.occurrence.qualifier) == (
        3,
        "ada",
        "Spiniferites ramosus",
        "cf.",
    )
    assert (label.occurrence.situation, label.occurrence.is_unsure) == ("reworked", True)


def test_an_act_that_is_sent_again_counts_once(client: TestClient, run: RunStore, labels: Path) -> None:
    act = an_act(run, "a-2030", 3, "Alnus")
    assert send(client, act, act) == {"accepted": [act["id"], act["id"]], "refused": {}}
    assert send(client, act)["accepted"] == [act["id"]]
    desk = client.app.state.runs["run"].desk  # type: ignore[attr-defined]
    assert desk.commit() == 1
    assert send(client, act)["accepted"] == [act["id"]]
    assert desk.commit() == 0


def test_a_label_is_corrected_withdrawn_and_undone_in_one_request(
    client: TestClient, run: RunStore, labels: Path
) -> None:
    send(
        client,
        an_act(run, "a-2030", 1, "Alnus"),
        an_act(run, "a-2030", 1, "Pinus"),
        an_act(run, "a-2030", 1, None),
    )
    assert get(client, "/runs/run/objects", status="labelled")["total"] == 0
    send(client, an_act(run, "a-2030", 1, "Betula"))
    client.app.state.runs["run"].desk.commit()  # type: ignore[attr-defined]
    assert [label.occurrence.name for label in LabelSet.open(labels).labels().consensus.values()] == [
        "Betula"
    ]


def test_missed_objects_and_struck_boxes_are_labels(client: TestClient, run: RunStore) -> None:
    box = [4000, 6000, 4100, 6120]
    missed = an_act(run, "a-2030", None, "Azolla", box=box)
    struck = an_act(run, "a-2030", 5, "", states={"kind": "no object"})
    assert not send(client, missed, struck)["refused"]
    columns = get(client, "/runs/run/slides/a-2030/objects")
    assert columns["missed"] == [{"box": box, "name": "Azolla", "who": "ada"}]
    assert columns["labels"]["5"]["states"]["kind"] == "no object"
    assert not send(client, an_act(run, "a-2030", None, None, box=box))["refused"]
    assert get(client, "/runs/run/slides/a-2030/objects")["missed"] == []


def test_what_cannot_be_recorded_is_refused_by_act_and_the_others_count(
    client: TestClient, run: RunStore
) -> None:
    good = an_act(run, "a-2030", 1, "Alnus")
    bad = [
        an_act(run, "a-2030", 40, "Alnus"),
        {**an_act(run, "a-2030", 1, "Alnus"), "slide_id": "absent"},
        {**an_act(run, "a-2030", 1, "Alnus"), "attempt": "0123456789abcdef"},
        an_act(run, "a-2030", 2, None),
    ]
    outcome = send(client, good, *bad)
    assert outcome["accepted"] == [good["id"]]
    assert [outcome["refused"][act["id"]] for act in bad] == [
        "a-2030 has no object 40",
        "the run holds no slide 'absent'",
        "a-2030 was processed again since the page was opened; load it again",
        "ada has no label of a-2030 #2, so there is none to withdraw",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"id": "x"},
        {"object_id": -1},
        {"object_id": None},
        {"box": [1, 2, 3, 4]},
        {"states": {"name": ""}},
        {"states": {"name": "Alnus", "kind": "bubble"}},
        {"states": {"name": "a" * 201}},
        {"states": {"name": "Alnus", "kind": "odd"}},
        {"states": {"name": "Alnus", "who": "somebody else"}},
        {"object_id": None, "box": [5, 5, 5, 9]},
    ],
)
def test_acts_without_sense_are_refused_before_they_are_written(
    client: TestClient, run: RunStore, labels: Path, change: dict[str, Any]
) -> None:
    answer = client.post(
        "/api/runs/run/acts", json={"acts": [{**an_act(run, "a-2030", 1, "Alnus"), **change}]}
    )
    assert answer.status_code == 422
    assert not list(labels.glob("journal/*"))


def test_without_a_label_set_the_pages_show_and_take_nothing(run: RunStore) -> None:
    with client_of(run) as client:
        assert get(client, "/runs/run")["labels"] is None
        assert get(client, "/runs/run/objects", status="unlabelled")["total"] == 77
        answer = client.post("/api/runs/run/acts", json={"acts": [an_act(run, "a-2030", 1, "Alnus")]})
        assert (answer.status_code, "--labels FOLDER" in answer.json()["detail"]) == (409, True)


def test_what_is_not_there_is_named(client: TestClient) -> None:
    assert client.get("/api/runs/other").json() == {"detail": "no run 'other' is served"}
    assert client.get("/api/runs/run/slides/absent").json() == {"detail": "the run holds no slide 'absent'"}
    assert client.get("/api/runs/run/objects/a-2030/999").status_code == 404


def test_every_page_is_one_document_and_the_api_describes_itself(client: TestClient) -> None:
    for path in ("/", "/label?run=run", "/slide/run/a-2030"):
        assert "/static/app.js" in client.get(path).text
    paths = client.get("/api/openapi.json").json()["paths"]
    assert {"/api/session", "/api/runs/{run}/acts", "/api/runs/{run}/objects"} <= paths.keys()


def test_an_audit_is_a_queue_in_random_order_without_predictions_and_its_labels_are_marked(
    run: RunStore, labels: Path, tmp_path: Path
) -> None:
    draw_audit(run, tmp_path / "audit", AuditRequest(), count=12)
    audit = read_audit(tmp_path / "audit")
    with client_of(run, labels=labels, audit=audit) as client:
        page = get(client, "/runs/run/objects", queue="audit")
        assert [(crop["slide_id"], crop["object_id"]) for crop in page["crops"]] == list(audit.objects)
        assert {(crop["taxon"], crop["confidence"]) for crop in page["crops"]} == {(None, None)}
        slide_id, object_id = audit.objects[0]
        shown = get(client, f"/runs/run/objects/{slide_id}/{object_id}", queue="audit")
        assert not [name for name in shown["columns"] if name.startswith("genus")]
        assert client.get("/api/runs/run/objects?queue=audit&taxon=Alnus").status_code == 404
        other = next(key for key in ((slide_id, number) for number in range(99)) if key not in audit.objects)
        send(client, an_act(run, slide_id, object_id, "Alnus"), an_act(run, *other, "Alnus"))
        progress = {"id": audit.record.id, "objects": len(audit.objects), "labelled": 1}
        assert get(client, "/runs/run")["audit"] == progress
        left = get(client, "/runs/run/objects", queue="audit", status="unlabelled")
        assert [(crop["slide_id"], crop["object_id"]) for crop in left["crops"]] == list(audit.objects[1:])
    marks = {label.key[:2]: label.chosen_by for label in LabelSet.open(labels).labels_of_round(1)}
    assert marks == {audit.objects[0]: audit.record.chosen_by, other: ""}
    with client_of(run) as client:
        assert client.get("/api/runs/run/objects?queue=audit").status_code == 404
