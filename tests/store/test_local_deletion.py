"""Deleting on a disk goes step by step through descriptors: no link is followed, whichever part of the path it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from fossilray.core.config import StoreConfig
from fossilray.core.errors import LinkInTheWay, StoreError
from fossilray.store.files.base import Files
from fossilray.store.files.open import open_files
from fossilray.store.files.subfolder import Subfolder


@pytest.fixture
def treasure(tmp_path: Path) -> Path:
    (tmp_path / "treasure" / "b" / "c").mkdir(parents=True)
    (tmp_path / "treasure" / "b" / "c" / "kept").write_bytes(b"kept")
    (tmp_path / "treasure" / "kept").write_bytes(b"kept")
    return tmp_path / "treasure"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "run").mkdir()
    return open_files(str(tmp_path / "run"), StoreConfig())


@pytest.mark.parametrize(
    ("link", "path"), [("a", "a"), ("a", "a/b"), ("a", "a/b/c"), ("x/a", "x/a/b/c/kept"), ("a", "a/kept")]
)
def test_nothing_is_deleted_through_a_link(files: Files, treasure: Path, link: str, path: str) -> None:
    place = Path(files.root) / link
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(treasure)
    with pytest.raises(LinkInTheWay, match=rf"/run/{link} is a link"):
        files.delete(path)
    assert place.is_symlink()
    assert (treasure / "b" / "c" / "kept").read_bytes() == b"kept"
    assert (treasure / "kept").read_bytes() == b"kept"


def test_link_to_a_file_stays_a_link(files: Files, treasure: Path) -> None:
    (Path(files.root) / "a").symlink_to(treasure / "kept")
    with pytest.raises(StoreError):
        files.delete("a")
    assert (Path(files.root) / "a").read_bytes() == b"kept"


def test_link_inside_a_deleted_folder_goes_and_what_it_leads_to_stays(files: Files, treasure: Path) -> None:
    files.write("a/b/file", b"x")
    (Path(files.root) / "a" / "b" / "link").symlink_to(treasure)
    files.delete("a")
    assert files.names("") == [".tmp"]
    assert (treasure / "b" / "c" / "kept").exists()


def test_run_that_is_reached_through_a_link_is_a_run(files: Files, tmp_path: Path) -> None:
    files.write("a/b", b"x")
    (tmp_path / "current").symlink_to(files.root)
    through = open_files(str(tmp_path / "current"), StoreConfig())
    through.delete("a/b")
    assert files.names("a") == []


@pytest.mark.parametrize("path", ["", ".", "..", "a/..", "../run/a", "a/../../treasure"])
def test_path_that_leads_out_of_the_folder_is_refused(files: Files, treasure: Path, path: str) -> None:
    files.write("a/b", b"x")
    with pytest.raises(ValueError, match="does not name a file below a folder"):
        files.delete(path)
    assert files.read("a/b") == b"x"
    assert treasure.exists()


def test_what_is_not_there_is_deleted_already(files: Files) -> None:
    files.delete("a")
    files.delete("a/b/c")


def test_links_are_listed_in_a_folder_and_on_the_way_to_it(files: Files, treasure: Path) -> None:
    files.write("a/b/file", b"x")
    (Path(files.root) / "a" / "b" / "link").symlink_to(treasure)
    (Path(files.root) / "to").symlink_to(treasure)
    assert files.links("a") == ["a/b/link"]
    assert files.links("to/b") == ["to"]
    assert files.links("nowhere") == []
    assert files.links("a/b/file") == []
    assert Subfolder(files, "a").links("b") == ["b/link"]
    assert Subfolder(files, "to").links("b") == [""]
