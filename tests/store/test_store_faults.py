"""A run directory in an object store that throttles, breaks, hangs up, keeps silent and loses answers."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from s3fs import S3FileSystem
from support.faulty_s3 import ACCESS_KEY, SECRET_KEY, FaultyS3, faulty_s3, faulty_server  # noqa: F401 (fixtures)
from support.run_fixtures import a_failure, a_run, a_summary, commit, some_objects, write_arrays

from fossilray.core.errors import (
    ConditionalCreateUnsupported,
    StoreAccessDenied,
    StoreError,
    StoreUnreachable,
)
from fossilray.core.records import ArrayFiles, CatalogRow
from fossilray.store import RunStore
from fossilray.store.run.layout import arrays_path

pytestmark = pytest.mark.faults

PASSING = [
    "slow down",
    "internal error",
    "too many requests",
    "reset",
    "silence",
    "lost response",
    "late answer",
]
"""Faults that go by when a request is repeated."""


@pytest.fixture
def store(faulty_s3: FaultyS3) -> RunStore:  # noqa: F811
    """A started run."""
    opened = RunStore.open(faulty_s3.url, faulty_s3.config)
    opened.create_or_check(a_run())
    faulty_s3.controller.requests.clear()
    return opened


@pytest.fixture
def impatient(store: RunStore, faulty_s3: FaultyS3) -> RunStore:  # noqa: F811
    """The same run, for one whose requests time out before the server breaks its silence."""
    return RunStore.open(faulty_s3.url, faulty_s3.config.model_copy(update={"timeout_s": 0.4}))


@pytest.mark.parametrize("fault", PASSING)
def test_every_act_on_files_outlives_a_passing_fault(impatient, faulty_s3, fault):  # noqa: F811
    files, fail = impatient.files, faulty_s3.controller.fail
    acts = [
        (lambda: files.write("a/b", b"0123456789"), None),
        (lambda: files.read("a/b"), b"0123456789"),
        (lambda: files.read_tail("a/b", 3), b"789"),
        (lambda: files.read_ranges("a/b", [(0, 2), (4, 6)]), [b"01", b"45"]),
        (lambda: files.find("a"), ["a/b"]),
        (lambda: files.names("a"), ["b"]),
        (lambda: [entry.bytes for entry in files.entries("a")], [10]),
        (lambda: files.delete("a/b"), None),
        (lambda: files.find("a"), []),
    ]
    for act, expected in acts:
        fail(fault)
        assert act() == expected
        assert faulty_s3.controller.pending() == 0


@pytest.mark.parametrize("fault", PASSING)
def test_a_commit_outlives_passing_faults_and_happens_once(impatient, faulty_s3, fault):  # noqa: F811
    store = impatient
    attempt = store.attempts.start("A17", deadline_s=60)
    faulty_s3.controller.fail(fault, 2, method="PUT", path="/objects/")
    faulty_s3.controller.fail(fault, method="PUT", path="/arrays/")
    assert commit(store, "A17", attempt=attempt, arrays=True)
    assert faulty_s3.controller.pending() == 0
    footer = store.footer("A17")
    assert footer is not None
    assert footer.attempt == attempt.attempt
    assert store.files.find("objects") == ["objects/well=6407%2F6-5/A17.parquet"]
    assert store.files.find(arrays_path("A17", attempt.attempt))
    assert not commit(store, "A17", arrays=True)


@pytest.mark.parametrize("fault", ["slow down", "internal error", "too many requests", "reset"])
def test_a_store_that_does_not_recover_is_told_in_one_sentence(store, faulty_s3, fault):  # noqa: F811
    faulty_s3.controller.fail(fault, 1000)
    for act in (
        lambda: store.files.read("run.json"),
        lambda: store.files.create("a", b"1"),
        lambda: store.files.write("a", b"1"),
        store.committed,
    ):
        faulty_s3.controller.requests.clear()
        with pytest.raises(StoreUnreachable, match="start the same command again") as caught:
            act()
        message = str(caught.value)
        assert "\n" not in message
        assert ACCESS_KEY not in message
        assert SECRET_KEY not in message
        assert store.url in message
        # aiohttp repeats what a connection that was kept open did not answer, once and by itself.
        assert len(faulty_s3.controller.requests) <= faulty_s3.config.tries * (2 if fault == "reset" else 1)


def test_a_store_that_refuses_credentials_midway_is_no_store_that_is_away(store, faulty_s3):  # noqa: F811
    faulty_s3.controller.fail("forbidden", 10)
    with pytest.raises(StoreAccessDenied, match=r"cannot write to .*store\.profile") as caught:
        commit(store, "A17")
    assert ACCESS_KEY not in str(caught.value)
    assert len(faulty_s3.controller.requests) == 1
    faulty_s3.controller.heal()
    assert commit(store, "A17")


def test_an_answer_cut_in_its_middle_is_read_again(store, faulty_s3):  # noqa: F811
    content = secrets.token_bytes(300_000)
    store.files.write("large", content)
    faulty_s3.controller.fail("half a response", 3, method="GET", path="large")
    assert store.files.read("large") == content
    faulty_s3.controller.fail("half a response", 1, method="GET", path="large")
    assert store.files.read_ranges("large", [(5, 200_000)]) == [content[5:200_000]]


def test_bytes_that_trickle_are_waited_for(impatient, faulty_s3):  # noqa: F811
    content = secrets.token_bytes(100_000)
    impatient.files.write("slow", content)
    faulty_s3.controller.requests.clear()
    faulty_s3.controller.fail("slow bytes", method="GET", path="slow")
    assert impatient.files.read("slow") == content
    assert len(faulty_s3.controller.requests) == 1


def test_no_file_of_a_run_holds_a_credential(store, faulty_s3):  # noqa: F811
    commit(store, "A17", arrays=True)
    attempt = store.attempts.start("B1", deadline_s=60)
    faulty_s3.controller.fail("forbidden", 1)
    with pytest.raises(StoreError) as caught:
        store.files.read("run.json")
    store.attempts.record_failure(replace(a_failure("B1", attempt.attempt), message=str(caught.value)))
    store.attempts.clear_failures(store.attempts.failures())
    store.append_summaries(store.summaries())
    paths = store.files.find("")
    assert {path.partition("/")[0] for path in paths} == {
        "arrays",
        "attempts",
        "objects",
        "run.json",
        "slides",
    }
    for path in paths:
        content = store.files.read(path)
        assert ACCESS_KEY.encode() not in content
        assert SECRET_KEY.encode() not in content


def test_lost_answers_at_the_start_do_no_harm(faulty_s3):  # noqa: F811
    url, config, controller = faulty_s3
    store = RunStore.open(url, config)
    for path in ("/.probe/", "/run.json", "/catalog.parquet", "/slides/"):
        controller.fail("lost response", method="PUT", path=path)
    store.create_or_check(a_run())
    rows = [CatalogRow("A17", "A17.mrxs")]
    assert store.freeze_catalog(rows) == rows
    commit(store, "A17")
    store.append_summaries(store.summaries())
    assert controller.pending() == 0
    assert store.files.find("slides") == ["slides/part-000000.parquet"]
    assert store.files.find("catalog") == []
    assert store.read_run().digest == a_run().digest


def test_a_store_without_conditions_is_refused_unless_one_writer_is_promised(faulty_s3):  # noqa: F811
    url, config, controller = faulty_s3
    alone = config.model_copy(update={"single_writer": True})
    controller.ignores_conditions = True
    with pytest.raises(ConditionalCreateUnsupported, match=r"overwrites .* --single-writer"):
        RunStore.open(url, config).create_or_check(a_run())
    assert RunStore.open(url, config).files.find("") == []
    only = RunStore.open(url, alone)
    only.create_or_check(a_run())
    assert commit(only, "A17")
    assert not commit(only, "A17")

    controller.heal()
    controller.fail("not implemented", method="PUT", path="/.probe/")
    with pytest.raises(ConditionalCreateUnsupported, match=r"refuses If-None-Match.* --single-writer"):
        RunStore.open(url + "2", config).create_or_check(a_run())


def test_an_attempt_that_may_have_committed_is_not_swept(store, faulty_s3):  # noqa: F811
    attempt = store.attempts.start("A17", deadline_s=60)
    files = write_arrays(store, "A17", attempt.attempt)
    table, summary = some_objects("A17", files.path, 3), a_summary("A17", attempt.attempt, objects=3)
    faulty_s3.controller.fail("lost response", 1000, method="PUT", path="/objects/")
    with pytest.raises(StoreUnreachable):
        store.commit_slide(table, summary, files, attempt=attempt)
    store.delete_attempt("A17", attempt.attempt)
    faulty_s3.controller.heal()
    assert store.committed() == {"A17"}
    assert len(store.files.find(files.path)) == len(files.bytes)
    assert store.commit_slide(table, summary, files, attempt=attempt)


def keep(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let S3 answer, so many times, that it deleted all but the first file it was told to."""
    really = S3FileSystem.call_s3

    def call_s3(client: S3FileSystem, method: str, **arguments: Any) -> dict[str, Any]:
        nonlocal times
        if method != "delete_objects" or not times:
            return really(client, method, **arguments)
        times -= 1
        (kept, *others) = arguments["Delete"]["Objects"]
        if others:
            really(client, method, Bucket=arguments["Bucket"], Delete={"Objects": others})
        return {"Errors": [{"Key": kept["Key"], "Code": "InternalError", "Message": f"key {ACCESS_KEY}"}]}

    monkeypatch.setattr(S3FileSystem, "call_s3", call_s3)


def test_files_that_s3_keeps_are_deleted_again_or_named(store, monkeypatch):
    for times, left in ((3, 0), (4, 1)):
        for name in "abc":
            store.files.write(f"arrays/{name}", b"1")
        keep(times, monkeypatch)
        if left:
            with pytest.raises(
                StoreError, match=r"cannot delete 1 files .*arrays/a .*InternalError"
            ) as caught:
                store.files.delete("arrays")
            assert ACCESS_KEY not in str(caught.value)
        else:
            store.files.delete("arrays")
        assert len(store.files.find("arrays")) == left


def test_a_thousand_files_and_one_are_deleted_in_two_requests(store, faulty_s3):  # noqa: F811
    bucket, _, prefix = store.root.partition("/")
    for number in range(1001):
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(bucket, f"{prefix}/arrays/x/{number}", b"")
    store.files.delete("arrays/x")
    # A single file needs no list of files.
    assert [len(faulty_s3.controller.requests_for(method)) for method in ("POST", "DELETE")] == [1, 1]
    assert store.files.find("arrays") == []


def test_a_conflict_is_settled(store, faulty_s3):  # noqa: F811
    faulty_s3.controller.fail("conflict", 3, method="PUT", path="/objects/")
    assert commit(store, "A17")


def test_a_conflict_that_does_not_end_is_reported(store, faulty_s3, monkeypatch):  # noqa: F811
    monkeypatch.setattr("time.sleep", lambda _: None)
    faulty_s3.controller.fail("conflict", 100, method="PUT")
    with pytest.raises(StoreError, match=r"conflict to every attempt to create a"):
        store.files.create("a", b"1")


def test_duckdb_reads_again_what_broke_off(store, faulty_s3):  # noqa: F811
    commit(store, "A17", objects=3000)
    faulty_s3.controller.fail("half a response", 2, method="GET", path="/objects/well=")
    with duckdb.connect() as connection:
        connection.register_filesystem(store.filesystem)
        found = connection.sql(f"SELECT sum(object_id) FROM '{store.objects_glob()}'").fetchall()
    assert found == [(sum(row % 200 for row in range(3000)),)]
    assert faulty_s3.controller.pending() == 0


def test_of_sixteen_who_commit_one_slide_in_a_failing_store_one_wins(store, faulty_s3):  # noqa: F811
    attempts = [store.attempts.start("A17", deadline_s=60) for _ in range(16)]
    for fault in ("lost response", "slow down", "reset", "conflict"):
        faulty_s3.controller.fail(fault, 2, method="PUT", path="/objects/")
    with ThreadPoolExecutor(16) as together:
        won = list(together.map(lambda attempt: commit(store, "A17", attempt=attempt, arrays=True), attempts))
    assert won.count(True) == 1
    winner = attempts[won.index(True)].attempt
    assert [row.attempt for row in store.summaries()] == [winner]
    assert {path.split("/")[2] for path in store.files.find("arrays")} == {f"{winner}.zarr"}
    with duckdb.connect() as connection:
        connection.register_filesystem(store.filesystem)
        seen = connection.sql(f"SELECT count(*), any_value(arrays) FROM '{store.objects_glob()}'").fetchall()
    assert seen == [(3, f"arrays/A17/{winner}.zarr")]


# Uploads in parts

LARGE = 115 * 2**20
"""Above s3fs's two parts of 50 MiB."""


def test_large_files_go_up_in_parts_and_come_back_by_range(store, faulty_s3):  # noqa: F811
    content = bytes(LARGE // 2) + secrets.token_bytes(1024) + bytes(LARGE // 2)
    middle = LARGE // 2
    # The end of the upload is lost once, and one of its parts meets every fault.
    for fault in ("slow down", "internal error", "reset"):
        faulty_s3.controller.fail(fault, method="PUT", path="partNumber=2")
    faulty_s3.controller.fail("lost response", method="POST", path="uploadId=")
    store.files.write("arrays/large", content)
    assert faulty_s3.controller.pending() == 0
    assert faulty_s3.controller.requests_for("PUT", "partNumber=3")
    assert store.files.entries("arrays")[0].bytes == len(content)
    assert store.files.read_ranges("arrays/large", [(middle, middle + 1024)]) == [content[middle:][:1024]]
    assert store.files.abort_uploads(datetime.now(UTC) + timedelta(days=1)) == 0


def test_a_large_file_is_created_in_one_conditional_request(store, faulty_s3):  # noqa: F811
    content = bytes(LARGE)
    assert store.files.create("large", content)
    assert not store.files.create("large", b"another")
    assert len(faulty_s3.controller.requests_for("PUT", "large")) == 2
    assert not faulty_s3.controller.requests_for(path="uploadId=")


def test_uploads_that_nobody_ended_are_aborted_and_no_others(store):
    now = datetime.now(UTC)
    bucket, _, prefix = store.root.partition("/")
    inside = store.filesystem.call_s3("create_multipart_upload", Bucket=bucket, Key=f"{prefix}/arrays/A17/x")
    outside = store.filesystem.call_s3("create_multipart_upload", Bucket=bucket, Key=f"{prefix}-2/arrays/x")
    store.files.write(".probe/0123456789abcdef", b"")
    # moto says that every upload began in 2010.
    assert store.files.abort_uploads(datetime(2001, 1, 1, tzinfo=UTC)) == 0
    assert store.files.abort_uploads(now + timedelta(minutes=1)) == 2
    left = store.filesystem.call_s3("list_multipart_uploads", Bucket=bucket)["Uploads"]
    assert [upload["UploadId"] for upload in left] == [outside["UploadId"]]
    assert inside["UploadId"] != outside["UploadId"]
    assert store.files.find(".probe") == []


# What it costs


def test_a_commit_is_one_request_and_a_listing_one_per_thousand_slides(store, faulty_s3):  # noqa: F811
    controller = faulty_s3.controller
    attempt = store.attempts.start("A17", deadline_s=60)
    files = ArrayFiles(arrays_path("A17", attempt.attempt), {}, {})
    table, summary = some_objects("A17", files.path, 3), a_summary("A17", attempt.attempt, objects=3)
    controller.requests.clear()
    store.commit_slide(table, summary, files, attempt=attempt)
    assert [request.method for request in controller.requests_for(path="/objects/")] == ["PUT"]
    store.read_run()
    controller.requests.clear()
    other = replace(summary, slide_id="B1")
    store.commit_slide(some_objects("B1", files.path, 3), other, files)
    assert [request.method for request in controller.requests] == ["PUT"]

    bucket, _, prefix = store.root.partition("/")
    for number in range(1999):
        key = f"{prefix}/objects/well=x/S{number}.parquet"
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(bucket, key, b"")
    controller.requests.clear()
    assert len(store.committed()) == 2001
    assert [request.method for request in controller.requests] == ["GET", "GET", "GET"]


def test_failures_cost_two_listings_and_two_requests_per_failed_slide(store, faulty_s3):  # noqa: F811
    for number in range(5):
        commit(store, f"S{number}")
        attempt = store.attempts.start(f"F{number}", deadline_s=60)
        store.attempts.record_failure(a_failure(f"F{number}", attempt.attempt))
    faulty_s3.controller.requests.clear()
    assert len(store.attempts.failures()) == 5
    assert len(faulty_s3.controller.requests) == 2 + 2 * 5


def test_arrays_cost_one_request_a_file(store, faulty_s3):  # noqa: F811
    files = write_arrays(store, "A17", "0011223344556677")
    assert [request.method for request in faulty_s3.controller.requests] == ["PUT"] * len(files.bytes)
