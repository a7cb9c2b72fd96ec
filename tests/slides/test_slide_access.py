"""Slides that the system does not let us read: which class, whose failure, and what comes of half-read ones."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.slides_on_disk import write_slide

import fossilray.slides.slide
from fossilray.core.config import load_config
from fossilray.core.errors import (
    OutOfMemory,
    SlideError,
    SlideMissing,
    SlideUnreadable,
    SourceOut,
    SourcesOut,
    SourceUnreachable,
    UnreadableRegion,
)
from fossilray.core.os_errors import UNREACHABLE
from fossilray.core.records import CatalogRow, Failure, WorkItem
from fossilray.processing.worker import SlideWorker
from fossilray.slides.access import as_slide_error
from fossilray.slides.catalog import find_slides
from fossilray.slides.neighbours import can_be_read, classify_failure
from fossilray.slides.slide import check_files, open_slide
from fossilray.store import RunStore
from fossilray.store.run.run_record import describe_run


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides") / "well"
    for name in "abc":
        write_slide(folder / f"{name}.mrxs", size=1024, objects=4)
    return folder


@pytest.fixture
def share(slides: Path, tmp_path: Path) -> Path:
    shutil.copytree(slides, tmp_path / "share" / "well")
    return tmp_path / "share" / "well"


@given(st.sampled_from(sorted(errno.errorcode)))
def test_every_error_of_the_system_has_at_most_one_class_and_a_remedy(code: int) -> None:
    error = as_slide_error(OSError(code, os.strerror(code)), "/x/a.svs")
    if code in UNREACHABLE:
        assert type(error) is SourceUnreachable
    if error is not None:
        assert "/x/a.svs" in str(error)
        assert ";" in str(error)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.EACCES, SlideUnreadable),
        (errno.EPERM, SlideUnreadable),
        (errno.EIO, SourceUnreachable),
        (errno.ESTALE, SourceUnreachable),
        (errno.ENOTCONN, SourceUnreachable),
        (errno.EHOSTDOWN, SourceUnreachable),
        (errno.ETIMEDOUT, SourceUnreachable),
        (errno.EMFILE, OutOfMemory),
    ],
)
@pytest.mark.parametrize("call", ["stat", "open"])
def test_a_file_that_cannot_be_read_is_its_slides_failure(
    code: int, kind: type[SlideError], call: str, share: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = ready_worker(share, tmp_path / "run")
    fail_at(monkeypatch, call, share / "b.mrxs", code)
    monkeypatch.setattr("io.open", refuse_as(share / "b.mrxs", code, open))
    failure = process("b")
    assert failure is not None
    assert (failure.error, failure.transient, failure.root) == (
        kind.__name__,
        kind is not SlideUnreadable,
        None,
    )
    assert process("a") is None


def test_names_that_lead_nowhere_are_told_apart(share: Path, tmp_path: Path) -> None:
    (share / "loop.svs").symlink_to(share / "loop.svs")
    (share / "folder.svs").mkdir()
    os.mkfifo(share / "pipe.svs")
    process = ready_worker(share, tmp_path / "run")
    for name, words in (
        ("loop.svs", "form a circle"),
        ("folder.svs", "is a folder"),
        ("pipe.svs", "no regular file"),
        ("x" * 300 + ".svs", "shorten its name"),
        ("nul\0.svs", "no path of a file"),
    ):
        with pytest.raises(SlideUnreadable, match=words):
            check_files(share / name)
    failure = process("loop.svs")
    assert failure is not None
    assert (failure.error, failure.quarantined) == ("SlideUnreadable", True)


def test_a_missing_slide_is_its_own_failure_only_beside_neighbours_that_can_be_read(
    share: Path, tmp_path: Path
) -> None:
    process = ready_worker(share, tmp_path / "run")
    (share / "b.mrxs").unlink()
    alone = process("b")
    assert alone is not None
    assert (alone.error, alone.quarantined) == ("SlideMissing", True)
    share.rename(tmp_path / "elsewhere")
    for make in (lambda: None, share.mkdir):
        make()
        out = process("a")
        assert out is not None
        assert (out.error, out.transient, out.quarantined) == ("SourceOut", True, False)
        assert out.root == str(share)
        assert "check that it is mounted" in out.message
    share.rmdir()
    (tmp_path / "elsewhere").rename(share)
    assert process("a") is None


def test_a_slide_alone_is_judged_by_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "one" / "a.svs"

    def classify() -> SlideError:
        error = SlideMissing("a.svs is no file")
        return classify_failure(error, str(path), others=lambda: [str(path)], is_readable=can_be_read)

    assert isinstance(classify(), SourceOut)
    path.parent.mkdir()
    assert isinstance(classify(), SourceOut)
    (path.parent / "read me.txt").touch()
    assert isinstance(classify(), SlideMissing)
    path.write_bytes(b"II*\0")
    assert type(classify()) is SourceUnreachable, "it is there now, so it may succeed"


def test_a_slide_that_is_gone_with_its_whole_folder_is_not_given_up_for_good(tmp_path: Path) -> None:
    gone, there = tmp_path / "one" / "a.svs", tmp_path / "two" / "b.svs"
    there.parent.mkdir()
    there.write_bytes(b"II*\0")
    others = [str(gone), str(there)]
    error = classify_failure(
        SlideMissing("no file"), str(gone), others=lambda: others, is_readable=can_be_read
    )
    assert type(error) is SourceUnreachable
    assert error.transient


@pytest.mark.parametrize("others", [["s3://bucket/a.svs", "s3://bucket/b.svs", "s3://other/c.svs"], []])
def test_a_slide_in_a_store_is_judged_by_its_bucket(others: list[str]) -> None:
    checked: list[str] = []

    def classify(error: SlideError, *, readable: bool) -> SlideError:
        def is_readable(path: str) -> bool:
            checked.append(path)
            return readable

        return classify_failure(error, "s3://bucket/a.svs", others=lambda: others, is_readable=is_readable)

    error = SourceUnreachable("s3://bucket/a.svs does not respond")
    assert classify(error, readable=True) is error
    out = classify(error, readable=False)
    assert isinstance(out, SourceOut)
    assert out.root == "s3://bucket"
    assert set(checked) == ({"s3://bucket/b.svs"} if others else {"s3://bucket/"})
    copy = classify(SlideMissing("/tmp/scratch/a.svs is no file"), readable=True)
    assert type(copy) is SourceUnreachable, "its copy may be fetched again"
    assert pickle.loads(pickle.dumps(out)).root == "s3://bucket"


def test_a_share_that_goes_while_a_slide_is_read_loses_no_tile(share: Path, tmp_path: Path) -> None:
    with open_slide(share / "a.mrxs", reader="openslide") as slide:
        slide.read(0, 0, 0, 64, 64)
        share.rename(tmp_path / "elsewhere")
        with pytest.raises(SlideMissing):
            slide.read(0, 300, 300, 64, 64)
        with pytest.raises(SlideMissing):
            slide.overview(8.0)


@pytest.mark.parametrize("passes", [True, False], ids=["a share that was out", "damage"])
def test_regions_that_were_lost_are_read_once_more_before_the_commit(
    passes: bool, share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = openslide.lowlevel._read_region
    out = True

    def read(*given: object) -> None:
        if out:
            raise openslide.OpenSlideError("Couldn't read")
        real(*given)

    monkeypatch.setattr(fossilray.slides.slide_handle.lowlevel, "_read_region", read)
    with open_slide(share / "a.mrxs", reader="openslide") as slide:
        slide.check_losses()
        for place in range(40):
            with pytest.raises(UnreadableRegion):
                slide.read(0, 10 * place, 0, 64, 64)
        out = not passes
        if passes:
            with pytest.raises(SourceUnreachable, match="40 regions could not be read"):
                slide.check_losses()
        else:
            slide.check_losses()


def test_a_slide_with_tiles_lost_to_its_share_is_not_committed(
    share: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fossilray.slides.slide.Slide._read_argb
    calls = 0

    def flicker(self: fossilray.slides.slide.Slide, *region: int) -> np.ndarray:
        nonlocal calls
        calls += 1
        if 4 < calls < 9:
            raise self._source.lose(region, "the share is out")  # type: ignore[arg-type]
        return real(self, *region)

    monkeypatch.setattr(fossilray.slides.slide.Slide, "_read_argb", flicker)
    process = ready_worker(share, tmp_path / "run", "slides.reader=openslide", "slides.max_lost_share=1")
    failure = process("a")
    assert failure is not None
    assert (failure.error, failure.transient) == ("SourceUnreachable", True)
    assert process("a") is None, "the next attempt reads all of it"


def test_what_cannot_be_read_in_a_folder_is_refused_and_the_rest_listed(
    share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (share / "closed").mkdir()
    (share / "loop.svs").symlink_to(share / "loop.svs")
    (share / "gone.svs").symlink_to(share / "nothing.svs")
    fail_at(monkeypatch, "scandir", share / "closed", errno.EACCES)
    fail_at(monkeypatch, "stat", share / "b.mrxs", errno.EIO)
    found = find_slides(str(share))
    assert [row.slide_id for row in found.rows] == ["a", "c"]
    assert {Path(one.path).name: one.error for one in found.refused} == {
        "b.mrxs": "SourceUnreachable",
        "closed": "SlideUnreadable",
        "gone.svs": "SlideMissing",
        "loop.svs": "SlideUnreadable",
    }


def test_a_share_that_goes_away_while_it_is_listed_refuses_no_slide(
    share: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fossilray.slides.catalog import find as finding

    real = finding._describe

    def describe(root: Path, file: Path, pattern: object) -> object:
        if file.stem == "b":
            share.rename(tmp_path / "elsewhere")
        return real(root, file, pattern)

    monkeypatch.setattr(finding, "_describe", describe)
    monkeypatch.setattr(finding, "_OPENING_THREADS", 1)
    with pytest.raises(SourcesOut, match="mounted and reachable"):
        find_slides(str(share))


def ready_worker(folder: Path, run: Path, *more: str) -> Callable[[str], Failure | None]:
    """A function that processes the slide of a name, and gives its failure."""
    config = load_config(None, ["detector.kind=classical", "embedder.weights=none", *more])
    store = RunStore.open(str(run))
    store.create_or_check(describe_run(config, {}))
    names = {"a": "a.mrxs", "b": "b.mrxs", "c": "c.mrxs", "loop.svs": "loop.svs"}
    rows = {name: CatalogRow(name, str(folder / file)) for name, file in names.items()}
    store.freeze_catalog(list(rows.values()))
    worker = SlideWorker(str(run), config)
    worker.prepare()
    return lambda name: worker.process(WorkItem.of_slide(rows[name])).failure


def fail_at(monkeypatch: pytest.MonkeyPatch, call: str, place: Path, code: int) -> None:
    monkeypatch.setattr(os, call, refuse_as(place, code, getattr(os, call)))


def refuse_as(place: Path, code: int, real: Callable[..., object]) -> Callable[..., object]:
    def call(path: object, *given: object, **options: object) -> object:
        if not isinstance(path, int) and os.fspath(path) == str(place):  # type: ignore[call-overload]
            raise OSError(code, os.strerror(code), str(place))
        return real(path, *given, **options)

    return call
