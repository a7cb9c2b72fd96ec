"""A run directory whose disk or share is out: told as an outage, waited for, and never made again elsewhere."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.run_fixtures import a_run, a_summary

from fossilray.core.errors import StoreError, StoreFull, StoreOut, StoreUnreachable
from fossilray.core.os_errors import NO_SPACE, UNREACHABLE
from fossilray.jobs.journal import DriverJournal
from fossilray.jobs.progress import Tally
from fossilray.store import RunStore

SOME = ("EIO", "ESTALE", "ENOTCONN", "EROFS", "EHOSTDOWN", "ETIMEDOUT", "ENOSPC", "EDQUOT")


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore.open(str(tmp_path / "run"))
    store.create_or_check(a_run())
    store.expect_run()
    store.files.write("a/b", b"1")
    return store


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize(
    ("call", "act"),
    [
        ("fsync", lambda store: store.files.write("x/y", b"2")),
        ("link", lambda store: store.files.create("x/z", b"2")),
        ("open", lambda store: store.files.read_ranges("a/b", [(0, 1)])),
        ("listdir", lambda store: store.files.names("a")),
        ("stat", lambda store: store.files.find("a")),
        ("scandir", lambda store: store.files.find("a")),
    ],
)
def test_errors_of_a_disk_are_outages(
    name: str, call: str, act: Callable[[RunStore], object], store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = getattr(errno, name)
    real = getattr(os, call)

    def fail(*given: object, **options: object) -> object:
        if isinstance(given[0], int) or str(given[0]).startswith(store.root):
            raise OSError(code, os.strerror(code), str(given[0]))
        return real(*given, **options)

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StoreOut, match="start the same command again; committed slides are kept") as caught:
        act(store)
    assert isinstance(caught.value, StoreFull if code in NO_SPACE else StoreUnreachable)
    assert os.strerror(code) in str(caught.value)
    assert caught.value.exit_code == 5


def test_a_disk_that_refuses_is_no_outage(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "x")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreError, match="change its permissions") as caught:
        store.files.write("x", b"2")
    assert not isinstance(caught.value, StoreOut)
    assert errno.EACCES not in UNREACHABLE


@pytest.mark.parametrize("how", ["an empty folder", "no folder"])
def test_a_run_that_is_not_mounted_is_told_and_never_made_anew(how: str, store: RunStore) -> None:
    root = Path(store.root)
    root.rename(root.with_name("elsewhere"))
    if how == "an empty folder":
        root.mkdir()
    for act in (
        lambda: store.attempts.start("a", deadline_s=60),
        lambda: store.files.create("objects/well=x/a.parquet", b""),
        lambda: store.files.read("a/b"),
        lambda: store.files.read_tail("a/b", 1),
        store.committed,
        lambda: store.files.names("a"),
        lambda: store.files.delete("a"),
        store.files.clock,
    ):
        with pytest.raises(StoreUnreachable, match="is not mounted"):
            act()
    assert not (list(root.iterdir()) if root.exists() else [])
    shutil.rmtree(root, ignore_errors=True)
    root.with_name("elsewhere").rename(root)
    assert store.files.read("a/b") == b"1"
    with pytest.raises(FileNotFoundError):
        store.files.read("a/absent")


def test_what_the_driver_writes_waits_for_the_disk(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fossilray.jobs.journal.RETRY_EVERY_S", 0.1)
    root = Path(store.root)
    journal = DriverJournal(store.attempts, run=store, patience_minutes=0.1)
    root.rename(root.with_name("elsewhere"))

    def mount_again() -> None:
        time.sleep(0.5)
        root.with_name("elsewhere").rename(root)

    back = threading.Thread(target=mount_again)
    back.start()
    tally = Tally(total=1, committed=1)
    journal.record_commit(a_summary("a", "0" * 16))
    journal.heartbeat(tally, (), out=("/share: its folder is not there",))
    journal.close(tally)
    back.join()
    assert store.attempts.heartbeats()[0].ended
    assert store.files.find("slides")


def test_a_job_ends_with_the_disks_error_once_its_patience_does(store: RunStore) -> None:
    root = Path(store.root)
    journal = DriverJournal(store.attempts, run=store, patience_minutes=0.001)
    root.rename(root.with_name("elsewhere"))
    with pytest.raises(StoreUnreachable, match="is not mounted"):
        journal.close(Tally(total=1))
