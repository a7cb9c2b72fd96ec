"""Outputs appear whole or not at all, and what killed writers left goes without harm to anybody else's files."""

from __future__ import annotations

import ast
import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from fossilray.core.atomic_files import (
    PART,
    atomic_file,
    atomic_folder,
    atomic_text,
    make_folder,
    write_atomically,
    write_new,
)
from fossilray.core.errors import FossilrayError, StoreError, UsageError

PACKAGE = Path(__file__).parents[2] / "fossilray"

WRITERS = {
    "core/atomic_files.py": "the helper itself",
    "store/files/local.py": "the files of runs, written below .tmp and linked or renamed",
    "slides/remote/download.py": "slides fetched to scratch, which no other process reads",
    "core/marked_folders.py": "the owner file of a folder of ours",
    "synthetic/writers/mirax_files.py": "data files of a painted slide, in a folder aside",
    "training/log.py": "rows appended to the curves of a training; a torn last row is dropped on resuming",
    "serve/act_journal.py": "acts appended and written through one by one; a torn last line was never acknowledged",
}
"""Modules that may open a file for writing, and why they do it themselves."""


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed_while_writing(path: Path) -> None:
    """A child process begins the file and dies."""
    child = os.fork()
    if child == 0:
        with atomic_file(path) as sink:
            sink.write(b"half")
            sink.flush()
            os._exit(9)
    os.waitpid(child, 0)


def test_a_file_is_seen_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    with atomic_file(path) as sink:
        sink.write(b"all ")
        assert not path.exists()
        sink.write(b"of it")
    assert path.read_bytes() == b"all of it"
    assert listed(path.parent) == ["report.html"]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail() -> None:
        with atomic_text(path) as text:
            text.write("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    assert listed(tmp_path) == ["report.html"]


def test_what_a_killed_writer_left_is_deleted_by_the_next_one_and_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    killed_while_writing(path)
    killed_while_writing(tmp_path / "b.csv")
    assert len([name for name in listed(tmp_path) if name.endswith(PART)]) == 2
    foreign = [".a.csv.mine", ".a.csv.part", f".a.csv.short{PART}", f"a.csv.{'0' * 16}{PART}"]
    for name in foreign:
        (tmp_path / name).write_text("somebody's")
    (tmp_path / f".a.csv.{'1' * 16}{PART}").symlink_to(tmp_path / foreign[0])
    write_atomically(path, "whole")
    left = [name for name in listed(tmp_path) if name not in foreign]
    assert [name for name in left if name.startswith(".b.csv")]
    assert [name for name in left if name.startswith(".a.csv")] == [f".a.csv.{'1' * 16}{PART}"]
    make_folder(tmp_path)
    assert not [name for name in listed(tmp_path) if name.startswith(".b.csv")]
    assert all((tmp_path / name).read_text() == "somebody's" for name in foreign)


def test_a_writer_that_lives_keeps_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with atomic_file(path) as slow:
        slow.write(b"slow")
        write_atomically(path, "quick")
        make_folder(tmp_path)
        assert path.read_bytes() == b"quick"
    assert path.read_bytes() == b"slow"
    assert listed(tmp_path) == ["a.csv"]


def test_many_writers_of_one_file_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    contents = [bytes([number]) * 100_000 for number in range(16)]
    threads = [threading.Thread(target=write_atomically, args=(path, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert listed(tmp_path) == ["a.bin"]


def test_permissions_and_links_stay_as_they_were(tmp_path: Path) -> None:
    real, link = tmp_path / "real.csv", tmp_path / "link.csv"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_atomically(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    write_atomically(tmp_path / "fresh.csv", "new")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "fresh.csv").stat().st_mode) == 0o666 & ~mask


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_atomically(pipe, "through it")
    reader.join()
    assert read == [b"through it"]
    assert pipe.is_fifo()


@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename", "makedirs"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_disk_that_fails_is_told_in_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    expected = UsageError if code == errno.EACCES else StoreError
    with pytest.raises(expected, match=rf"cannot write .*a\.csv: {os.strerror(code)}; ") as caught:
        write_atomically(path, "new" * 100_000)
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert listed(tmp_path) == ["a.csv"]


def test_a_fault_that_a_library_drops_is_told_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write_and_drop() -> None:
        with atomic_file(tmp_path / "a.h5ad", defer_errors=True) as sink:
            monkeypatch.setattr(os, "write", fail)
            sink.write(b"x" * 100_000)

    with pytest.raises(StoreError, match="No space left"):
        write_and_drop()
    monkeypatch.undo()
    assert not listed(tmp_path)


def test_names_as_long_as_a_file_system_takes_are_written_too(tmp_path: Path) -> None:
    name = "å" * 125 + ".html"
    write_atomically(tmp_path / name, "long")
    killed_while_writing(tmp_path / name)
    write_atomically(tmp_path / name, "long")
    assert listed(tmp_path) == [name]


def test_a_folder_is_seen_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "classes"
    path.mkdir()
    with atomic_folder(path) as made:
        make_folder(made / "Alnus")
        write_new(made / "Alnus" / "1.jpg", b"1")
        assert not listed(path)
    assert listed(path) == ["Alnus"]
    assert listed(tmp_path) == ["classes"]


def test_a_folder_that_holds_something_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "classes"
    path.mkdir()
    (path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"), atomic_folder(path):
        pass
    assert listed(path) == ["mine.txt"]


def test_a_folder_whose_name_is_taken_meanwhile_is_refused_and_the_other_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "classes"

    def meet_another() -> None:
        with atomic_folder(path) as made:
            write_new(made / "1.jpg", b"1")
            path.mkdir()
            (path / "mine.txt").write_text("mine")

    with pytest.raises(FossilrayError, match=r"cannot write .*not empty"):
        meet_another()
    assert listed(tmp_path) == ["classes"]
    assert listed(path) == ["mine.txt"]


def test_a_folder_that_a_killed_writer_left_is_deleted_by_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "classes"
    child = os.fork()
    if child == 0:
        with atomic_folder(path) as made:
            write_new(made / "1.jpg", b"1")
            os._exit(9)
    os.waitpid(child, 0)
    assert len(listed(tmp_path)) == 1
    with atomic_folder(path) as made:
        write_new(made / "2.jpg", b"2")
    assert listed(tmp_path) == ["classes"]
    assert listed(path) == ["2.jpg"]


def test_no_module_but_those_named_opens_a_file_for_writing() -> None:
    found = {path.relative_to(PACKAGE).as_posix(): calls_that_write(path) for path in PACKAGE.rglob("*.py")}
    strays = {name: calls for name, calls in found.items() if calls and name not in WRITERS}
    assert not strays, "write through fossilray.core.atomic_files or the run's Files"
    assert not [name for name in WRITERS if not found[name]], "named, and writes nothing itself"


def calls_that_write(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [f"{call.lineno}: {ast.unparse(call)[:80]}" for call in calls if writes(call)]


def writes(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    texts = [one.value for one in values if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    source = ast.unparse(call)
    if name in (
        "write_text",
        "write_bytes",
        "save_file",
        "copyfile",
        "copytree",
        "symlink_to",
        "hardlink_to",
    ):
        return True
    if name in ("open", "fdopen"):
        # `filesystem.open` reaches object stores, where nothing shows before the upload ends.
        mode = [text for text in texts if len(text) <= 3 and set(text) <= set("rwxabt+")]
        is_open = any(set(text) & set("wxa+") for text in mode) or "O_WRONLY" in source or "O_RDWR" in source
        return (is_open or "open(mode" in source) and "filesystem" not in source
    if name in ("link", "rename", "replace", "mkfifo") and source.startswith("os."):
        return True
    # To a buffer in memory these write nothing.
    first = ast.unparse(call.args[-1 if name == "save" else 0]) if call.args else ""
    if name in ("savefig", "write_table", "ParquetWriter", "save", "write_csv", "File") and call.args:
        owner = ast.unparse(call.func).split(".")[0]
        if owner in ("pq", "parquet", "figure", "torch", "csv", "h5py", "Pillow", "faiss"):
            return any(word in first for word in ("path", "out", "folder", "aside", "partial", "/"))
    return False
