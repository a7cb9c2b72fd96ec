"""The probe that checks create-if-absent, and what is left of it where a disk fails."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fossilray.core.errors import StoreError
from fossilray.store.files.base import PROBE_FILES
from fossilray.store.files.conditional_create import check_conditional_create
from fossilray.store.files.local import LocalFiles

FAILS_TO_DELETE = """
import errno, os, sys
from pathlib import Path
from fossilray.core.errors import StoreError
from fossilray.store.files.conditional_create import check_conditional_create
from fossilray.store.files.local import LocalFiles

def refuse(path, *args, **kwargs):
    raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

files = LocalFiles(Path(sys.argv[1]), single_writer=False)
if sys.argv[2] == "clock":
    Path.unlink = refuse
    act = files.clock
else:
    plain = os.unlink
    os.unlink = lambda path, **options: (refuse if "dir_fd" in options else plain)(path, **options)
    act = lambda: check_conditional_create(files)
try:
    act()
except StoreError:
    sys.exit(7)
"""


def probes(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / PROBE_FILES).glob("*"))


@pytest.mark.parametrize("act", ["clock", "create"])
def test_a_probe_that_could_not_be_deleted_is_deleted_by_the_next_run(tmp_path: Path, act: str) -> None:
    done = subprocess.run([sys.executable, "-c", FAILS_TO_DELETE, str(tmp_path), act], check=False)
    assert done.returncode == 7
    assert probes(tmp_path)
    check_conditional_create(LocalFiles(tmp_path, single_writer=False))
    assert not (tmp_path / PROBE_FILES).exists() or not probes(tmp_path)


def test_the_probe_of_a_running_process_and_files_of_other_names_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = LocalFiles(tmp_path, single_writer=False)
    with monkeypatch.context() as broken:
        broken.setattr(LocalFiles, "delete", lambda *_: (_ for _ in ()).throw(StoreError("EIO")))
        with pytest.raises(StoreError, match="EIO"):
            check_conditional_create(files)
    (running,) = probes(tmp_path)
    (tmp_path / PROBE_FILES / "notes.txt").write_text("mine")
    (tmp_path / PROBE_FILES / "0123456789abcdef").write_bytes(os.urandom(16))
    files.tidy()
    assert probes(tmp_path) == sorted([running, "notes.txt", "0123456789abcdef"])


def test_a_disk_that_fails_while_probes_are_looked_for_does_not_stop_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> list[str]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    files = LocalFiles(tmp_path, single_writer=False)
    monkeypatch.setattr(LocalFiles, "find", refuse)
    check_conditional_create(files)
