"""One process at a time at a place: of many that try exactly one holds it, and an ended one blocks no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from fossilray.core.config import StoreConfig
from fossilray.core.errors import UsageError
from fossilray.store.files import claims
from fossilray.store.files.base import Files
from fossilray.store.files.claims import CLAIMS, EXPIRES_S, hold_folder
from fossilray.store.files.open import open_files
from fossilray.store.files.process_note import describe_maker, has_ended

HOLD = """
import sys, time
from fossilray.core.config import StoreConfig
from fossilray.core.errors import UsageError
from fossilray.store.files.claims import hold_folder
from fossilray.store.files.open import open_files
begin = float(sys.argv[2])
time.sleep(max(begin - time.time(), 0))
try:
    with hold_folder(open_files(sys.argv[1], StoreConfig(single_writer=True)), "driver"):
        print("holds", flush=True)
        time.sleep(float(sys.argv[3]))
except UsageError as error:
    print(error)
"""


def files_in(folder: Path, *, single_writer: bool = False) -> Files:
    return open_files(str(folder), StoreConfig(single_writer=single_writer))


def claims_at(folder: Path) -> list[Path]:
    return sorted((folder / CLAIMS).glob("*"))


def start(folder: Path, *, at: float = 0.0, seconds: float = 60.0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(folder), str(at), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_place_that_is_held_is_refused_and_free_afterwards(tmp_path: Path) -> None:
    with hold_folder(files_in(tmp_path), "driver") as claim:
        claim.check()
        with (
            pytest.raises(UsageError, match=rf"another driver is at work .*process {os.getpid()}, since"),
            hold_folder(files_in(tmp_path), "driver"),
        ):
            pass
        assert len(claims_at(tmp_path)) == 1
    assert not claims_at(tmp_path)
    with hold_folder(files_in(tmp_path), "driver"):
        pass


@pytest.mark.parametrize("single_writer", [False, True])
def test_of_many_who_ask_at_once_exactly_one_holds_the_place(tmp_path: Path, single_writer: bool) -> None:
    for _ in range(5):
        start_together, all_done = threading.Barrier(12), threading.Barrier(12, timeout=60)
        held: list[int] = []

        def hold(
            number: int,
            start_together: threading.Barrier = start_together,
            all_done: threading.Barrier = all_done,
            held: list[int] = held,
        ) -> None:
            start_together.wait()
            try:
                with hold_folder(files_in(tmp_path, single_writer=single_writer), "driver"):
                    held.append(number)
                    all_done.wait()
            except UsageError:
                all_done.wait()

        threads = [threading.Thread(target=hold, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert len(held) == 1
        assert not claims_at(tmp_path)


def test_two_processes_started_together_leave_one_and_a_killed_one_blocks_nobody(tmp_path: Path) -> None:
    at = time.time() + 2.0
    both = [start(tmp_path, at=at), start(tmp_path, at=at)]
    first = [one.stdout.readline() for one in both if one.stdout]
    assert sorted(line.split()[0] for line in first) == ["another", "holds"], first
    for one in both:
        one.kill()
        one.wait()
    with hold_folder(files_in(tmp_path), "driver"):
        assert len(claims_at(tmp_path)) == 1


def test_a_claim_of_another_machine_counts_until_it_is_old(tmp_path: Path) -> None:
    foreign = tmp_path / CLAIMS / "0123456789abcdef.json"
    foreign.parent.mkdir()
    stated = {"state": "holding", "host": "far", "machine": "other/pid", "process": "1@1", "since": "then"}
    foreign.write_text(json.dumps(stated))
    with pytest.raises(UsageError, match="far, process 1"), hold_folder(files_in(tmp_path), "driver"):
        pass
    assert foreign.exists()
    old = time.time() - EXPIRES_S - 5
    os.utime(foreign, (old, old))
    with hold_folder(files_in(tmp_path), "driver"):
        assert not foreign.exists()


def test_a_file_that_is_no_claim_blocks_until_it_is_old(tmp_path: Path) -> None:
    torn = tmp_path / CLAIMS / "0123456789abcdef.json"
    torn.parent.mkdir()
    torn.write_bytes(b"[" * 100_000)
    with pytest.raises(UsageError, match="unknown"), hold_folder(files_in(tmp_path), "driver"):
        pass
    old = datetime.now().astimezone() - timedelta(seconds=EXPIRES_S + 5)
    os.utime(torn, (old.timestamp(), old.timestamp()))
    with hold_folder(files_in(tmp_path), "driver"):
        pass


def test_a_process_that_lost_its_place_while_it_slept_hears_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hold_folder(files_in(tmp_path), "driver") as claim:
        (only,) = claims_at(tmp_path)
        only.unlink()
        now = time.time()
        monkeypatch.setattr(claims.time, "time", lambda: now + EXPIRES_S)
        with pytest.raises(UsageError, match="another driver took"):
            claim.check()


def test_a_maker_counts_as_ended_only_where_this_machine_knows_it() -> None:
    note: dict[str, str] = json.loads(describe_maker())
    child = subprocess.run(
        [
            sys.executable,
            "-c",
            "from fossilray.store.files.process_note import describe_maker; print(describe_maker().decode())",
        ],
        capture_output=True,
        check=True,
    )
    assert not has_ended(describe_maker())
    assert has_ended(child.stdout) == bool(note["machine"])
    for other in ({**note, "machine": "elsewhere"}, {**note, "machine": ""}, {**note, "process": "x"}, 3):
        assert not has_ended(json.dumps(other).encode())
    assert not has_ended(b"torn {")
