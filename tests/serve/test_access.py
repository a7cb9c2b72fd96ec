"""Who is let in: names of the server, origins, tokens, sizes; and the headers of every answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from support.served import ORIGIN, an_act, client_of
from support.small_run import write_small_run

from fossilray.core.errors import UsageError
from fossilray.serve.annotators import Annotators, read_annotators
from fossilray.serve.server import serve_runs
from fossilray.store import RunStore

ADA, BEN = "ada-" + "a" * 20, "ben-" + "b" * 20


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return write_small_run(tmp_path_factory.mktemp("access") / "run")


@pytest.fixture
def annotators(tmp_path: Path) -> Annotators:
    table = tmp_path / "annotators.csv"
    table.write_text(f"name,token,role\nAda,{ADA},annotator\nBen,{BEN},viewer\n", encoding="utf-8")
    return read_annotators(table)


def test_a_foreign_name_of_the_server_is_refused(run: RunStore) -> None:
    with client_of(run) as client:
        for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""):
            assert client.get("/api/session", headers={"host": host}).status_code == 421
        for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST"):
            assert client.get("/api/session", headers={"host": host}).status_code == 200


def test_a_change_from_another_origin_or_none_is_refused(run: RunStore, tmp_path: Path) -> None:
    with client_of(run, labels=tmp_path / "labels") as client:
        body = {"acts": [an_act(run, "a-2030", 1, "Alnus")]}
        for origin in ("http://evil.example", "null", "http://127.0.0.1:9999", ORIGIN + ".evil.example"):
            assert client.post("/api/runs/run/acts", json=body, headers={"origin": origin}).status_code == 403
        del client.headers["origin"]
        assert client.post("/api/runs/run/acts", json=body).status_code == 403
        assert client.post("/api/runs/run/acts", json=body, headers={"origin": ORIGIN}).status_code == 200


def test_every_answer_forbids_foreign_scripts_and_frames(run: RunStore) -> None:
    with client_of(run) as client:
        for path in ("/", "/api/session", "/static/app.js", "/absent", "/api/runs/absent"):
            headers = client.get(path).headers
            assert "script-src 'self';" in headers["content-security-policy"]
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"


def test_a_large_request_is_refused_whether_it_states_its_length_or_not(
    run: RunStore, tmp_path: Path
) -> None:
    with client_of(run, labels=tmp_path / "labels") as client:
        assert client.post("/api/runs/run/acts", content=b" " * (3 * 2**20)).status_code == 413
        answer = client.post("/api/runs/run/acts", content=(b" " * 2**20 for _ in range(3)))
        assert answer.status_code >= 400


def test_a_token_opens_and_a_role_limits(run: RunStore, annotators: Annotators, tmp_path: Path) -> None:
    with client_of(run, labels=tmp_path / "labels", annotators=annotators) as client:
        assert client.get("/api/session").status_code == 401
        assert client.get("/static/app.js").status_code == 200
        assert client.get("/login").status_code == 200
        for name, token, may_label in (("Ada", ADA, True), ("Ben", BEN, False)):
            bearer = {"authorization": f"Bearer {token}"}
            session = client.get("/api/session", headers=bearer).json()
            assert (session["name"], session["may_label"]) == (name, may_label)
            body = {"acts": [an_act(run, "a-2030", 1, "Alnus")]}
            answer = client.post("/api/runs/run/acts", json=body, headers=bearer)
            assert answer.status_code == (200 if may_label else 403)


def test_a_token_is_kept_in_a_cookie_that_scripts_cannot_read(run: RunStore, annotators: Annotators) -> None:
    with client_of(run, annotators=annotators) as client:
        assert client.post("/login", content="wrong").status_code == 401
        answer = client.post("/login", content=ADA, follow_redirects=False)
        cookie = answer.headers["set-cookie"]
        assert answer.status_code == 303
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert client.get("/api/session").json()["name"] == "Ada"


def test_guessing_is_slowed_down(run: RunStore, annotators: Annotators) -> None:
    with client_of(run, annotators=annotators) as client:
        answers = [
            client.get("/api/session", headers={"authorization": f"Bearer guess-{n}"}).status_code
            for n in range(25)
        ]
        assert answers == [401] * 20 + [429] * 5
        assert client.post("/login", content="guess").status_code == 429


@pytest.mark.parametrize(
    "path",
    [
        "/static/../application.py",
        "/static/..%2fapplication.py",
        "/static/%2e%2e/application.py",
        "/api/runs/run/slides/..%2F..%2Frun.json/0123456789abcdef/crops/0.jpg",
        "/api/runs/run/slides/a-2030/..%2F..%2Frun/crops/0.jpg",
        "/api/runs/%2e%2e",
    ],
)
def test_tricks_with_paths_lead_nowhere(run: RunStore, path: str) -> None:
    with client_of(run) as client:
        answer = client.get(path)
        assert answer.status_code in (404, 422)
        assert "import" not in answer.text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("Ada,short,annotator", "the token of Ada has 5 characters, expected 16 or more"),
        (f"Ada,{ADA},boss", "role is 'boss', expected viewer or annotator"),
        (f",{ADA},viewer", "name is empty"),
        (f"Ada,{ADA},viewer\nBen,{ADA},viewer", "a token that stands in another row, too"),
    ],
)
def test_a_table_of_annotators_without_sense_is_refused(tmp_path: Path, rows: str, message: str) -> None:
    table = tmp_path / "annotators.csv"
    table.write_text(f"name,token,role\n{rows}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        read_annotators(table)


def test_other_machines_are_served_only_with_tokens(run: RunStore) -> None:
    with pytest.raises(
        UsageError, match=r"0\.0\.0\.0 is reached from other machines, so everybody needs a token"
    ):
        serve_runs([run], host="0.0.0.0", port=0, name="ada")


def test_pages_need_a_token_only_where_there_are_several_people(
    run: RunStore, annotators: Annotators
) -> None:
    assert annotators.needs_token
    assert not Annotators.one("ada").needs_token
    with client_of(run) as client:
        assert isinstance(client, TestClient)
        assert (
            client.get("/api/session", headers={"authorization": "Bearer anything"}).json()["name"] == "ada"
        )
