"""Scratch deletes what bears the mark of a process that ended, and nothing else, whatever lies around it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fossilray.core import folder_owners
from fossilray.core.errors import ScratchFull
from fossilray.core.folder_owners import Owner
from fossilray.core.marked_folders import OWNER, MarkedFolder, remove_abandoned, remove_marked
from fossilray.slides.remote.scratch import Scratch, delete_abandoned

OWN = f"fossilray-scratch-{os.geteuid()}"
AN_ID = "0123abcd"
ENDED_PID = 2**22 + 1
"""Above the largest that Linux gives."""


def owner(**changes: object) -> Owner:
    """Of a process of this machine that ended."""
    return replace(Owner.new(AN_ID), pid=ENDED_PID, **changes)  # type: ignore[arg-type]


def leave(parent: Path, one: Owner, *, name: str = AN_ID) -> Path:
    """A folder with this mark, whose lock nobody holds."""
    folder = parent / name
    folder.mkdir(parents=True)
    (folder / OWNER).write_text(json.dumps(asdict(one)))
    (folder / "slide-1").mkdir()
    (folder / "slide-1" / "a.mrxs").write_bytes(b"pixels")
    return folder


def test_what_a_process_of_this_machine_left_is_deleted(tmp_path: Path) -> None:
    left = leave(tmp_path, owner())
    assert remove_abandoned(tmp_path) == [left]
    assert not left.exists()


def test_process_id_that_another_process_has_now_protects_nothing(tmp_path: Path) -> None:
    left = leave(tmp_path, replace(Owner.new(AN_ID), started="1"))
    assert remove_abandoned(tmp_path) == [left]


def test_folder_of_a_living_process_stays_though_its_lock_is_lost(tmp_path: Path) -> None:
    left = leave(tmp_path, Owner.new(AN_ID))
    assert not remove_abandoned(tmp_path)
    assert left.exists()


def test_what_lay_there_before_the_machine_started_anew_is_deleted_from_its_own_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = leave(tmp_path, owner(boot="an earlier one"))
    monkeypatch.setattr(folder_owners, "_is_of_one_machine", lambda folder: False)
    assert not remove_abandoned(tmp_path)
    monkeypatch.setattr(folder_owners, "_is_of_one_machine", lambda folder: True)
    assert remove_abandoned(tmp_path) == [left]


@pytest.mark.parametrize(
    "mark",
    [{"boot": "of another machine"}, {"boot": ""}, {"host": "elsewhere"}],
    ids=["boot", "none", "host"],
)
def test_on_a_disk_of_several_machines_nothing_of_another_one_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: dict[str, str]
) -> None:
    left = leave(tmp_path, owner(**mark))
    monkeypatch.setattr(folder_owners, "_is_of_one_machine", lambda folder: False)
    assert not remove_abandoned(tmp_path)
    assert left.exists()


def test_locked_folder_stays_whatever_its_mark_says(tmp_path: Path) -> None:
    kept = MarkedFolder(tmp_path)
    mark = kept.path / OWNER
    mark.write_text(json.dumps(asdict(replace(Owner.new(kept.id), pid=ENDED_PID, boot="long ago"))))
    assert not remove_abandoned(tmp_path)
    assert not remove_marked(kept.path, kept.id)
    kept.close()
    assert not kept.path.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b"null",
        json.dumps(asdict(owner(format="fossilray-folder/0"))).encode(),
        json.dumps(asdict(owner()) | {"id": "89abcdef"}).encode(),
        json.dumps(asdict(owner()) | {"pid": "1"}).encode(),
        json.dumps(asdict(owner()) | {"pid": -1}).encode(),
        json.dumps(asdict(owner()) | {"boot": None}).encode(),
        json.dumps(asdict(owner()) | {"more": 1}).encode(),
        json.dumps(asdict(owner()))[:-1].encode(),
    ],
)
def test_folder_without_a_valid_mark_stays(tmp_path: Path, content: bytes) -> None:
    left = leave(tmp_path, owner())
    (left / OWNER).write_bytes(content)
    assert not remove_abandoned(tmp_path)
    assert (left / "slide-1" / "a.mrxs").exists()


def test_links_are_never_followed(tmp_path: Path) -> None:
    """As the folder, as its mark, and inside it."""
    mine = tmp_path / "mine"
    treasure = leave(mine, owner())
    below = tmp_path / "below"
    below.mkdir()
    (below / AN_ID).symlink_to(treasure)
    assert not remove_abandoned(below)
    (below / AN_ID).unlink()
    (below / AN_ID).mkdir()
    (below / AN_ID / OWNER).symlink_to(treasure / OWNER)
    assert not remove_abandoned(below)
    shutil.rmtree(below / AN_ID)
    left = leave(below, owner())
    (left / "slides").symlink_to(treasure)
    (left / "slide-1" / "link").symlink_to(treasure / "slide-1")
    assert remove_abandoned(below) == [left]
    assert (treasure / "slide-1" / "a.mrxs").exists()


def test_mark_that_is_no_file_is_none(tmp_path: Path) -> None:
    (tmp_path / AN_ID).mkdir()
    os.mkfifo(tmp_path / AN_ID / OWNER)
    assert not remove_abandoned(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away takes root")
@pytest.mark.parametrize("what", ["", OWNER])
def test_what_belongs_to_another_user_stays(tmp_path: Path, what: str) -> None:
    left = leave(tmp_path, owner())
    os.chown(left / what, 12345, 12345)
    assert not remove_abandoned(tmp_path)
    assert left.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away takes root")
def test_scratch_of_this_name_that_another_user_made_first_is_refused(tmp_path: Path) -> None:
    (tmp_path / OWN).mkdir()
    os.chown(tmp_path / OWN, 12345, 12345)
    with pytest.raises(
        ScratchFull, match=r"belongs to another user \(id 12345, not 0\); set slides\.scratch"
    ):
        Scratch(str(tmp_path))
    assert not delete_abandoned(tmp_path)


def test_scratch_that_is_a_link_is_refused(tmp_path: Path) -> None:
    treasure = leave(tmp_path / "treasure", owner())
    (tmp_path / OWN).symlink_to(treasure.parent)
    with pytest.raises(ScratchFull, match=rf"{OWN} is a link or not a folder; set slides\.scratch"):
        Scratch(str(tmp_path))
    assert not delete_abandoned(tmp_path)
    assert treasure.exists()


def test_scratch_is_closed_to_other_users(tmp_path: Path) -> None:
    (tmp_path / OWN).mkdir(mode=0o777)
    scratch = Scratch(str(tmp_path))
    assert [(tmp_path / OWN).stat().st_mode & 0o777, scratch.folder.stat().st_mode & 0o777] == [0o700, 0o700]
    scratch.close()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (errno.ENOSPC, "No space left on device; free some space there"),
        (errno.EDQUOT, "quota exceeded; free some space there"),
        (errno.EROFS, "Read-only file system; set slides.scratch to a local folder"),
        (errno.ENOLCK, "No locks available; set slides.scratch to a local folder"),
    ],
)
def test_disk_that_refuses_is_told_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int, told: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr("fossilray.core.machine.fcntl.flock", refuse)
    with pytest.raises(ScratchFull, match=told):
        Scratch(str(tmp_path))
    assert not list((tmp_path / OWN).iterdir())


def test_child_that_was_forked_leaves_the_folder_to_its_parent(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from fossilray.slides.remote.scratch import Scratch
scratch = Scratch(sys.argv[1])
child = os.fork()
if not child:
    sys.exit(0)
os.waitpid(child, 0)
print(scratch.folder.exists())
"""
    said = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "True"
    assert not list((tmp_path / OWN).iterdir())


NAMES = st.one_of(
    st.sampled_from(
        ["fossilray-demo", "fossilray-runs", OWN, AN_ID, "slide-1", "lock", OWNER, "fossilray-x1"]
    ),
    st.from_regex(r"[0-9a-f]{8}", fullmatch=True),
    st.text("ab .é-", min_size=1, max_size=6).filter(lambda name: name not in (".", "..")),
)
CONTENTS = st.one_of(
    st.binary(max_size=20),
    st.builds(
        lambda one: json.dumps(asdict(one)).encode(), st.just(replace(Owner.new("11112222"), pid=ENDED_PID))
    ),
)


class ForeignThings(RuleBasedStateMachine):
    """Scratch is made, closed, left and swept among files, folders and links of persons, of any name and age."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.outside = Path(tempfile.mkdtemp())
        (self.outside / "kept").write_bytes(b"kept")
        self.foreign: dict[Path, bytes | str | None] = {self.outside / "kept": b"kept"}
        self.living: list[Scratch] = []
        self.numbers: Iterator[int] = iter(range(10**6))

    def free_path(self, inside: bool, name: str) -> Path | None:
        above = self.root / OWN if inside and (self.root / OWN).is_dir() else self.root
        # Instead of its own folder a person's file or link would only be refused, as tests above show.
        taken = os.path.lexists(above / name) or above / name == self.root / OWN
        return None if taken else above / name

    @rule(inside=st.booleans(), name=NAMES, content=CONTENTS, age_s=st.sampled_from([-(10**6), 0, 10**8]))
    def put_file(self, inside: bool, name: str, content: bytes, age_s: int) -> None:
        if path := self.free_path(inside, name):
            path.write_bytes(content)
            now = path.stat().st_mtime
            os.utime(path, (now - age_s, now - age_s))
            self.foreign[path] = content

    @rule(inside=st.booleans(), name=NAMES, mark=CONTENTS, is_marked=st.booleans())
    def put_folder(self, inside: bool, name: str, mark: bytes, is_marked: bool) -> None:
        if (path := self.free_path(inside, name)) and path.name != "11112222":
            path.mkdir()
            self.foreign[path] = None
            for file in (*((OWNER,) if is_marked else ()), "lock", "run.json"):
                (path / file).write_bytes(mark)
                self.foreign[path / file] = mark
            os.utime(path, (0, 0))

    @rule(inside=st.booleans(), name=NAMES)
    def put_link(self, inside: bool, name: str) -> None:
        if path := self.free_path(inside, name):
            path.symlink_to(self.outside)
            self.foreign[path] = str(self.outside)

    @rule()
    def make(self) -> None:
        self.living.append(Scratch(str(self.root)))
        (self.living[-1].folder / "slide-1").mkdir()
        (self.living[-1].folder / "slide-1" / "a").symlink_to(self.outside)

    @precondition(lambda self: self.living)
    @rule()
    def close(self) -> None:
        scratch = self.living.pop()
        scratch.close()
        assert not scratch.folder.exists()

    @rule()
    def abandon_and_delete(self) -> None:
        identifier = f"f{next(self.numbers):07x}"
        if self.free_path(True, identifier):
            left = leave(self.root / OWN, replace(Owner.new(identifier), pid=ENDED_PID), name=identifier)
            assert delete_abandoned(self.root) == [left]

    @rule()
    def delete_nothing(self) -> None:
        assert not delete_abandoned(self.root)

    @invariant()
    def everything_else_is_there(self) -> None:
        for path, content in self.foreign.items():
            if isinstance(content, bytes):
                assert path.read_bytes() == content
            elif isinstance(content, str):
                assert str(path.readlink()) == content
            else:
                assert path.is_dir()
        assert all(scratch.folder.is_dir() for scratch in self.living)

    def teardown(self) -> None:
        for scratch in self.living:
            scratch.close()
        shutil.rmtree(self.root)
        shutil.rmtree(self.outside)


TestForeignThings = ForeignThings.TestCase
TestForeignThings.settings = settings(max_examples=10, stateful_step_count=15, deadline=None)


@pytest.mark.slow
def test_much_longer_everything_foreign_is_still_there() -> None:
    run_state_machine_as_test(
        ForeignThings, settings=settings(max_examples=300, stateful_step_count=40, deadline=None)
    )


@given(content=st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_no_bytes_that_a_person_wrote_are_a_mark(content: bytes) -> None:
    assert Owner.parse(content) is None


def test_the_mark_names_this_machine_and_process(tmp_path: Path) -> None:
    folder = MarkedFolder(tmp_path, prefix="x-")
    found = Owner.parse((folder.path / OWNER).read_bytes())
    assert found is not None
    assert (found.id, found.host, found.pid) == (folder.id, socket.gethostname(), os.getpid())
    assert folder.path.name == f"x-{folder.id}"
    folder.close()
    folder.remove("anything")
