"""Nothing that was acknowledged is lost, and nothing counts twice, however the server ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.served import an_act, client_of, send
from support.small_run import write_small_run

from fossilray.core.errors import DamagedFile, StoreError
from fossilray.labels.label_set import LabelSet
from fossilray.serve.act import Act
from fossilray.serve.act_journal import ActJournal, read_journal
from fossilray.serve.served_run import ServedRun
from fossilray.store import RunStore

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return write_small_run(tmp_path_factory.mktemp("journal") / "run")


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return tmp_path / "labels"


def labelled(folder: Path) -> list[tuple[str, int | None, str]]:
    """Every label of every round, so that one that counted twice is seen."""
    found = LabelSet.open(folder)
    return [
        (label.slide_id, label.object_id, label.occurrence.name)
        for record in found.rounds()
        for label in found._read(record.number)[1]
    ]


def test_acts_become_a_round_when_the_server_ends(run: RunStore, labels: Path) -> None:
    with client_of(run, labels=labels) as client:
        send(client, an_act(run, "a-2030", 1, "Alnus"), an_act(run, "a-2030", 2, "Pinus"))
        (journal,) = (labels / "journal").iterdir()
        assert journal.suffix == ".jsonl"
    assert labelled(labels) == [("a-2030", 1, "Alnus"), ("a-2030", 2, "Pinus")]
    assert [path.suffix for path in (labels / "journal").iterdir()] == [".done"]
    (record,) = LabelSet.open(labels).rounds()
    assert (record.source, record.run) == (journal.name, run.url)


def test_a_server_that_was_killed_leaves_a_round_to_the_next_one(run: RunStore, labels: Path) -> None:
    abandoned = ServedRun("run", run, labels=labels)
    assert abandoned.desk is not None
    with client_of(run, labels=labels) as other:
        send(other, an_act(run, "a-2030", 9, "Betula"))
        # A living server keeps its journal.
        assert len(list((labels / "journal").glob("*.jsonl"))) == 1
        with client_of(run, labels=labels):
            assert len(list((labels / "journal").glob("*.jsonl"))) == 1
    assert labelled(labels) == [("a-2030", 9, "Betula")]


@pytest.mark.parametrize("fails", ["labels.label_set.LabelSet.add", "serve.act_journal.Path.rename"])
def test_a_round_that_fails_is_tried_again_and_counts_once(
    run: RunStore, labels: Path, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with client_of(run, labels=labels) as client:
        desk = ServedRun("run", run, labels=labels).desk
        assert desk is not None
        desk.record([Act.model_validate(an_act(run, "a-2030", 1, "Alnus"))], who="me")
        with monkeypatch.context() as patch:
            patch.setattr(f"fossilray.{fails}", full)
            with pytest.raises(OSError, match="No space"):
                desk.commit()
        # Another server leaves the journal alone, whose acts are this one's to commit.
        with client_of(run, labels=labels):
            pass
        send(client, an_act(run, "a-2030", 2, "Pinus"))
        desk.record([Act.model_validate(an_act(run, "a-2030", 3, "Betula"))], who="me")
        desk.commit()
    assert sorted(labelled(labels)) == [
        ("a-2030", 1, "Alnus"),
        ("a-2030", 2, "Pinus"),
        ("a-2030", 3, "Betula"),
    ]
    assert {path.suffix for path in (labels / "journal").iterdir()} == {".done"}


@pytest.mark.parametrize("has_round", [False, True])
def test_a_kill_before_or_after_the_round_counts_acts_once(
    run: RunStore, labels: Path, has_round: bool
) -> None:
    with client_of(run, labels=labels) as client:
        act = an_act(run, "a-2030", 1, "Alnus")
        send(client, act)
    (done,) = (labels / "journal").iterdir()
    left = done.rename(done.with_suffix(".jsonl"))
    if not has_round:
        (labels / "rounds" / "00001.parquet").unlink()
    with client_of(run, labels=labels) as client:
        assert send(client, act)["accepted"] == [act["id"]]
    assert labelled(labels) == [("a-2030", 1, "Alnus")]
    assert not left.exists()


def test_half_a_line_was_never_acknowledged_and_a_damaged_one_is_named(run: RunStore, labels: Path) -> None:
    with client_of(run, labels=labels) as client:
        send(client, an_act(run, "a-2030", 1, "Alnus"))
    (done,) = (labels / "journal").iterdir()
    line = done.read_bytes()
    half = done.with_suffix(".jsonl")
    half.write_bytes(line + line[: len(line) // 2])
    assert len(read_journal(half)) == 1
    half.write_bytes(b"{}\n" + line)
    with pytest.raises(DamagedFile, match=r"jsonl, line 1, is no act"):
        read_journal(half)


def test_a_full_disk_refuses_the_acts_and_they_can_be_sent_again(
    run: RunStore, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client_of(run, labels=labels) as client:
        first, second = an_act(run, "a-2030", 1, "Alnus"), an_act(run, "a-2030", 2, "Pinus")
        send(client, first)

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("fossilray.serve.act_journal.os.fsync", full)
            answer = client.post("/api/runs/run/acts", json={"acts": [second]})
            assert (answer.status_code, "No space left on device" in answer.json()["detail"]) == (503, True)
            assert client.get("/api/runs/run/objects", params={"status": "labelled"}).json()["total"] == 1
        assert send(client, second)["accepted"] == [second["id"]]
    assert labelled(labels) == [("a-2030", 1, "Alnus"), ("a-2030", 2, "Pinus")]


def test_a_journal_takes_nothing_of_acts_that_it_could_not_write(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("in the way")
    with pytest.raises(StoreError, match="takes no label"):
        ActJournal(tmp_path).append([])


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_servers_killed_at_any_act_lose_none_and_count_none_twice(
    run: RunStore, labels: Path, kills: int
) -> None:
    rng = np.random.default_rng(kills)
    acts = [
        an_act(run, slide_id, object_id, f"Taxon {object_id}")
        for slide_id, count in (("a-2030", 40), ("b-2050", 25))
        for object_id in range(count)
    ]
    acknowledged: set[str] = set()
    for number in range(kills + 1):
        with serving(run, labels) as (process, address):
            waiting = [act for act in acts if act["id"] not in acknowledged]
            stop = len(waiting) if number == kills else int(rng.integers(1, max(2, len(waiting) // 2)))
            for act in waiting[:stop]:
                acknowledged.update(post(address, [act]))
            # What was acknowledged last is sent once more, as a page does whose connection broke.
            if acknowledged and number % 2:
                post(address, [next(act for act in acts if act["id"] in acknowledged)])
            process.send_signal(signal.SIGKILL if number < kills else signal.SIGINT)
            process.wait(timeout=30)
    assert sorted(labelled(labels)) == sorted(
        (act["slide_id"], act["object_id"], act["states"]["name"]) for act in acts
    )


@contextmanager
def serving(run: RunStore, labels: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, which turns acts into a round every fifth of a second."""
    process = subprocess.Popen(
        [sys.executable, "-m", "support.pages_server", run.url, str(labels), "0.2", "0"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT / "tests",
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def post(address: str, acts: list[dict[str, Any]]) -> list[str]:
    request = urllib.request.Request(
        f"{address}api/runs/run/acts",
        json.dumps({"acts": acts}).encode(),
        {"content-type": "application/json", "origin": address.rstrip("/")},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        accepted: list[str] = json.load(answer)["accepted"]
    return accepted
