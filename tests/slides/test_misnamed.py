"""MIRAX slides with names in another case, as from Windows shares, are opened; else what to rename is named."""

# ruff: noqa: F811 (fixtures are imported by the name under which tests take them)

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.remote_slides import upload
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)
from support.slides_on_disk import write_slide

from fossilray.core.config import SlidesConfig, StoreConfig
from fossilray.core.errors import MisnamedSlide, MissingCompanion, SlideError
from fossilray.slides.catalog import find_slides
from fossilray.slides.remote.scratch import Scratch
from fossilray.slides.remote.staging import Stager
from fossilray.slides.slide import open_slide

S3 = tuple[str, StoreConfig]
NAME = "Slide \u00d8\u00e5 1"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / f"{NAME}.mrxs"
    write_slide(path, size=700)
    return path


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for scratch of its own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def scratch_of(temporary: Path) -> list[Path]:
    return [path for above in temporary.iterdir() for path in above.iterdir()]


def upper_ending(path: Path) -> None:
    path.rename(path.with_suffix(".MRXS"))


def lower_folder(path: Path) -> None:
    path.with_suffix("").rename(path.parent / path.stem.lower())


def lower_slide(path: Path) -> None:
    path.rename(path.with_name(path.name.lower()))


def upper_files(path: Path) -> None:
    for file in list(path.with_suffix("").iterdir()):
        file.rename(file.with_name(file.name.upper()))


def upper_slidedat(path: Path) -> None:
    (path.with_suffix("") / "Slidedat.ini").rename(path.with_suffix("") / "SLIDEDAT.INI")


def lower_data(path: Path) -> None:
    (path.with_suffix("") / "Data0000.dat").rename(path.with_suffix("") / "data0000.dat")


def decomposed_folder(path: Path) -> None:
    path.with_suffix("").rename(path.parent / unicodedata.normalize("NFD", path.stem))


def everything(path: Path) -> None:
    upper_files(path)
    path.with_suffix("").rename(path.parent / path.stem.upper())
    path.rename(path.with_suffix(".Mrxs"))


CHANGES = (
    upper_ending,
    lower_folder,
    lower_slide,
    upper_files,
    upper_slidedat,
    lower_data,
    decomposed_folder,
    everything,
)


def changed(sound: Path, folder: Path, *changes: Callable[[Path], None]) -> Path:
    """A copy of the sound slide in a new folder, with changed names; the path of its .mrxs file."""
    folder.mkdir()
    shutil.copy(sound, folder)
    shutil.copytree(sound.with_suffix(""), folder / sound.stem)
    for change in changes:
        change(folder / sound.name)
    return next(file for file in folder.iterdir() if file.is_file())


def pixels(path: Path) -> np.ndarray:
    with open_slide(path) as slide:
        bounds = slide.info.bounds
        assert slide.listed is not None
        return slide.read(0, bounds.x_min, bounds.y_min, 300, 300)


@pytest.mark.parametrize("change", CHANGES)
def test_names_in_another_case_are_opened_through_links(
    sound: Path, tmp_path: Path, temporary: Path, change: Callable[[Path], None]
) -> None:
    path = changed(sound, tmp_path / "a", change)
    before = sorted(tmp_path.joinpath("a").rglob("*"))
    assert np.array_equal(pixels(path), pixels(sound))
    assert scratch_of(temporary) == []
    assert sorted(tmp_path.joinpath("a").rglob("*")) == before


@pytest.mark.parametrize("change", CHANGES)
def test_catalog_lists_the_slide_under_its_own_path_and_no_orphan(
    sound: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = changed(sound, tmp_path / "a", change)
    found = find_slides(str(tmp_path / "a"))
    assert [row.path for row in found.rows] == [str(path)]
    assert found.refused == []


def test_a_sound_slide_needs_no_links(sound: Path, temporary: Path) -> None:
    with open_slide(sound) as slide:
        assert slide.info.path == str(sound)
    assert list(temporary.iterdir()) == []


def test_slides_in_an_object_store_are_listed_and_staged_under_the_right_names(
    sound: Path, tmp_path: Path, s3_run: S3
) -> None:
    url, config = s3_run
    root = tmp_path / "all"
    root.mkdir()
    for number, change in enumerate(CHANGES):
        changed(sound, root / str(number), change)
    upload(root, url, config)
    here, there = find_slides(str(root)), find_slides(url, access=config)
    assert here.refused == there.refused == []
    assert [row.slide_id for row in there.rows] == [row.slide_id for row in here.rows]
    assert len(there.rows) == len(CHANGES)
    stager = Stager(SlidesConfig(), config)
    for row in there.rows:
        with stager.local(row.path) as local:
            assert np.array_equal(pixels(local), pixels(sound))
        assert len(find_slides(row.path, access=config).rows) == 1
    stager.close()


def test_two_names_that_fit_are_both_named(sound: Path, tmp_path: Path, s3_run: S3) -> None:
    url, config = s3_run
    path = changed(sound, tmp_path / "a", upper_slidedat)
    folder = path.with_suffix("")
    shutil.copy(folder / "SLIDEDAT.INI", folder / "slidedat.ini")
    with pytest.raises(
        MisnamedSlide, match=r"both SLIDEDAT\.INI and slidedat\.ini.*rename the right one to Slidedat\.ini"
    ):
        open_slide(path)
    upload(tmp_path / "a", url, config)
    (here,), (there,) = find_slides(str(tmp_path / "a")).refused, find_slides(url, access=config).refused
    assert (here.error, here.reason) == (there.error, there.reason)
    assert here.error == "MisnamedSlide"


def test_two_folders_that_fit_are_both_named_and_neither_is_an_orphan(sound: Path, tmp_path: Path) -> None:
    path = changed(sound, tmp_path / "a", lower_folder)
    shutil.copytree(path.parent / path.stem.lower(), path.parent / path.stem.upper())
    found = find_slides(str(tmp_path / "a"))
    assert [file.error for file in found.refused] == ["MisnamedSlide"]
    assert path.stem.lower() in found.refused[0].reason
    assert path.stem.upper() in found.refused[0].reason


def test_an_exact_name_counts_before_one_in_another_case(sound: Path, tmp_path: Path) -> None:
    path = changed(sound, tmp_path / "a")
    (path.with_suffix("") / "SLIDEDAT.INI").write_text("another")
    assert np.array_equal(pixels(path), pixels(sound))


def test_what_to_rename_is_named_where_links_cannot_be_made(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = changed(sound, tmp_path / "a", lower_folder, lambda path: path.rename(path.with_suffix(".MRXS")))
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file" / "none"))
    with pytest.raises(
        MisnamedSlide, match=rf"rename {NAME}\.MRXS to {NAME}\.mrxs, {NAME.lower()} to {NAME}"
    ):
        open_slide(path)


def test_a_slide_that_was_renamed_without_its_folder_is_named_with_it(sound: Path, tmp_path: Path) -> None:
    path = changed(sound, tmp_path / "a")
    path.rename(path.with_name("renamed.mrxs"))
    with pytest.raises(MisnamedSlide, match=rf"lacks its folder renamed.*rename {NAME} to renamed"):
        open_slide(path.with_name("renamed.mrxs"))
    (path.parent / NAME / "Slidedat.ini").unlink()
    with pytest.raises(MissingCompanion, match="lacks its folder renamed; copy"):
        open_slide(path.with_name("renamed.mrxs"))


def test_a_misnamed_slide_that_lacks_a_file_lacks_it(sound: Path, tmp_path: Path, temporary: Path) -> None:
    path = changed(sound, tmp_path / "a", upper_files)
    (path.with_suffix("") / "DATA0001.DAT").unlink()
    with pytest.raises(SlideError, match=rf"lacks {NAME}/Data0001\.dat"):
        open_slide(path)
    (path.with_suffix("") / "DATA0001.DAT").touch()
    with pytest.raises(MissingCompanion, match="0 bytes"):
        open_slide(path)
    assert scratch_of(temporary) == []


def test_links_of_a_killed_process_go_with_the_next_scratch(
    sound: Path, tmp_path: Path, temporary: Path
) -> None:
    path = changed(sound, tmp_path / "a", upper_ending)
    code = (
        "import sys, time; from fossilray.slides.slide import open_slide; slide = open_slide(sys.argv[1]); "
        "print(slide.info.path, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, path],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert process.stdout is not None
    link = Path(process.stdout.readline().decode().strip())
    assert link.is_symlink()
    process.send_signal(signal.SIGKILL)
    process.wait()
    Scratch(None).close()
    assert not link.exists()
    assert scratch_of(temporary) == []
    assert path.exists()
    assert (path.with_suffix("") / "Data0000.dat").exists()
