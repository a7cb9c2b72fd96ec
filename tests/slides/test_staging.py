"""Slides in S3 are brought whole to a bounded folder, the next one meanwhile, and nothing of them stays."""

# ruff: noqa: F811 (fixtures are imported by the name they are asked for)

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openslide
import pytest
from support.faulty_s3 import SECRET_KEY, FaultyS3, faulty_s3, faulty_server  # noqa: F401 (fixtures)
from support.remote_slides import put, s3_client, upload
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)
from support.slides_on_disk import write_slide

from fossilray.core.config import AccessConfig, SlidesConfig, StoreConfig
from fossilray.core.errors import (
    MissingCompanion,
    NotASlide,
    ScratchFull,
    SlideError,
    SourceAccessDenied,
    SourceUnreachable,
    TooLarge,
)
from fossilray.core.marked_folders import OWNER
from fossilray.slides.remote import download as fetching
from fossilray.slides.remote.scratch import Scratch
from fossilray.slides.remote.source import RemoteFile, SlideSource
from fossilray.slides.remote.staging import Stager

S3 = tuple[str, StoreConfig]
GB = 1e-9
A_WHILE_S = 20


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("slides")
    write_slide(root / "A 1.mrxs", size=700)
    write_slide(root / "B.mrxs", size=600)
    return root


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


@pytest.fixture
def archive(slides: Path, s3_run: S3) -> S3:
    url, config = s3_run
    upload(slides, url, config)
    return url, config


@pytest.fixture
def stage(scratch: Path) -> Iterator[Callable[..., Stager]]:
    """Makes stagers, closed in the end."""
    made: list[Stager] = []

    def make(config: StoreConfig, **options: object) -> Stager:
        made.append(Stager(SlidesConfig(scratch=str(scratch), **options), config))
        return made[-1]

    yield make
    for one in made:
        one.close()


class Reads:
    """Reads of slides' files, watched or held up; `act` is called before each with its URL."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, act: Callable[[str], None] = lambda url: None
    ) -> None:
        self.urls: list[str] = []
        read = SlideSource.read

        def watched(source: SlideSource, file: RemoteFile, start: int = 0, stop: int | None = None) -> bytes:
            self.urls.append(file.url)
            act(file.url)
            return read(source, file, start, stop)

        monkeypatch.setattr(SlideSource, "read", watched)


def held(scratch: Path) -> list[Path]:
    """What is staged."""
    return [path for path in scratch.rglob("*") if path.is_file() and path.name != OWNER]


def folders(scratch: Path) -> set[str]:
    """Those of processes."""
    return {folder.name for folder in scratch.glob("fossilray-scratch-*/*")}


def size_of(slides: Path, name: str) -> int:
    return sum(file.stat().st_size for file in [slides / f"{name}.mrxs", *(slides / name).iterdir()])


def test_staged_slide_is_the_same_slide_and_goes_again(
    slides: Path, archive: S3, scratch: Path, stage: Callable[..., Stager], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, config = archive
    monkeypatch.setattr(fetching, "PART_BYTES", 10_000)
    stager = stage(config)
    assert not scratch.exists()
    with stager.local(f"{url}/A 1.mrxs") as path:
        assert path.name == "A 1.mrxs"
        with openslide.OpenSlide(path) as far, openslide.OpenSlide(slides / "A 1.mrxs") as near:
            assert dict(far.properties) == dict(near.properties)
            region = (0, 0), 0, (900, 900)
            assert np.array_equal(far.read_region(*region), near.read_region(*region))
        assert {file.name for file in held(scratch)} == {
            file.name for file in [slides / "A 1.mrxs", *(slides / "A 1").iterdir()]
        }
        for file in (slides / "A 1").iterdir():
            assert (path.with_suffix("") / file.name).read_bytes() == file.read_bytes()
    assert not held(scratch)
    assert stager.fetched_bytes == size_of(slides, "A 1")
    stager.close()
    assert not folders(scratch)


def test_only_files_that_the_slide_names_are_fetched(
    archive: S3, scratch: Path, stage: Callable[..., Stager]
) -> None:
    url, config = archive
    put(f"{url}/B/Data9999.dat", b"not named", config)
    put(f"{url}/B/deeper/Slidedat.ini", b"not named", config)
    with stage(config).local(f"{url}/B.mrxs"):
        assert "Data9999.dat" not in {file.name for file in held(scratch)}
        assert not list(scratch.rglob("deeper"))


def test_slide_of_one_file_is_staged_under_its_name(
    s3_run: S3, scratch: Path, stage: Callable[..., Stager]
) -> None:
    url, config = s3_run
    put(f"{url}/x/a b.svs", b"pixels" * 1000, config)
    with stage(config).local(f"{url}/x/a b.svs") as path:
        assert (path.name, path.read_bytes()) == ("a b.svs", b"pixels" * 1000)
    assert not held(scratch)


def test_local_slide_stays_where_it_is(slides: Path, scratch: Path, stage: Callable[..., Stager]) -> None:
    stager = stage(StoreConfig())
    stager.prefetch(str(slides / "B.mrxs"))
    stager.prefetch(None)
    with stager.local(str(slides / "A 1.mrxs")) as path:
        assert path == slides / "A 1.mrxs"
    assert not scratch.exists()


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_stays_after_a_failure(
    archive: S3, scratch: Path, stage: Callable[..., Stager], failure: type[BaseException]
) -> None:
    url, config = archive
    stager = stage(config)

    def fail() -> None:
        with stager.local(f"{url}/A 1.mrxs"):
            stager.prefetch(f"{url}/B.mrxs")
            raise failure

    with pytest.raises(failure):
        fail()
    stager.close()
    assert not folders(scratch)


def test_next_slide_is_fetched_while_this_one_is_in_work(
    archive: S3, stage: Callable[..., Stager], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, config = archive
    begun = threading.Event()
    reads = Reads(monkeypatch, lambda read: begun.set() if "/B/" in read else None)
    stager = stage(config)
    with stager.local(f"{url}/A 1.mrxs"):
        stager.prefetch(f"{url}/B.mrxs")
        assert begun.wait(A_WHILE_S)
    with stager.local(f"{url}/B.mrxs") as path:
        openslide.OpenSlide(path).close()
    assert sum(read.endswith("B/Data0000.dat") for read in reads.urls) == 1


def test_slide_asked_for_while_it_is_fetched_is_waited_for(
    slides: Path, archive: S3, stage: Callable[..., Stager], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, config = archive
    begun, go = threading.Event(), threading.Event()

    def hold(read: str) -> None:
        if read.endswith("B/Data0000.dat"):
            begun.set()
            assert go.wait(A_WHILE_S)

    reads = Reads(monkeypatch, hold)
    stager = stage(config)
    stager.prefetch(f"{url}/B.mrxs")
    assert begun.wait(A_WHILE_S)
    threading.Timer(0.2, go.set).start()
    with stager.local(f"{url}/B.mrxs") as path:
        assert (path.with_suffix("") / "Data0000.dat").read_bytes() == (
            slides / "B" / "Data0000.dat"
        ).read_bytes()
    assert sum(read.endswith("B/Data0000.dat") for read in reads.urls) == 1


def test_parts_are_fetched_side_by_side(
    archive: S3, stage: Callable[..., Stager], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, config = archive
    monkeypatch.setattr(fetching, "PART_BYTES", 10_000)
    together = threading.Barrier(3)
    met: list[int] = []

    def meet(read: str) -> None:
        if "Data" in read and not met:
            together.wait(A_WHILE_S)
            met.append(1)

    Reads(monkeypatch, meet)
    with stage(config, fetch_threads=3).local(f"{url}/A 1.mrxs"):
        assert met


def test_slide_larger_than_the_scratch_is_refused(
    slides: Path, archive: S3, stage: Callable[..., Stager]
) -> None:
    url, config = archive
    stager = stage(config, scratch_gb=(size_of(slides, "B") - 1) * GB)
    stager.prefetch(f"{url}/B.mrxs")
    with pytest.raises(TooLarge, match=r"slides\.scratch_gb"), stager.local(f"{url}/B.mrxs"):
        pass
    assert stager.fetched_bytes == 0


def test_two_slides_never_hold_more_than_the_bound(
    slides: Path, archive: S3, scratch: Path, stage: Callable[..., Stager], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, config = archive
    most = max(size_of(slides, "A 1"), size_of(slides, "B")) + 10
    largest = 0

    def weigh(read: str) -> None:
        nonlocal largest
        largest = max(largest, sum(file.stat().st_size for file in held(scratch)))

    Reads(monkeypatch, weigh)
    stager = stage(config, scratch_gb=most * GB)
    for here, ahead in (("A 1", "B"), ("B", "A 1"), ("A 1", "A 1")):
        with stager.local(f"{url}/{here}.mrxs") as path:
            stager.prefetch(f"{url}/{ahead}.mrxs")
            openslide.OpenSlide(path).close()
            weigh("")
    assert 0 < largest <= most


def test_slide_fetched_ahead_gives_way_to_one_that_is_asked_for(
    slides: Path, archive: S3, scratch: Path, stage: Callable[..., Stager]
) -> None:
    url, config = archive
    stager = stage(config, scratch_gb=(max(size_of(slides, "A 1"), size_of(slides, "B")) + 10) * GB)
    stager.prefetch(f"{url}/B.mrxs")
    with stager.local(f"{url}/A 1.mrxs"):
        assert not [file for file in held(scratch) if file.name == "B.mrxs"]


def test_slide_fetched_ahead_in_vain_goes_when_another_is_fetched_ahead_or_at_the_end(
    archive: S3, scratch: Path, stage: Callable[..., Stager]
) -> None:
    url, config = archive
    stager = stage(config)
    stager.prefetch(f"{url}/B.mrxs")
    stager.prefetch(f"{url}/A 1.mrxs")
    with stager.local(f"{url}/A 1.mrxs"):
        assert {file.parent.name for file in held(scratch)} == {"A 1", "slide-2"}
    stager.prefetch(f"{url}/B.mrxs")
    stager.close()
    assert not folders(scratch)


def test_missing_files_are_named_by_their_address(archive: S3, stage: Callable[..., Stager]) -> None:
    url, config = archive
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    s3_client(config).delete_object(Bucket=bucket, Key=f"{prefix}/B/Data0001.dat")
    stager = stage(config)
    for path, kind, named in (
        (f"{url}/C.mrxs", NotASlide, "C.mrxs"),
        (f"{url}/B.mrxs", MissingCompanion, "B/Data0001.dat"),
        ("s3://no-such-bucket-here/a.svs", NotASlide, "a.svs"),
    ):
        stager.prefetch(path)
        with pytest.raises(kind, match=named) as caught, stager.local(path):
            pass
        assert path in str(caught.value)


@pytest.mark.parametrize("name", ["../../escaped", "/etc/escaped", "..", "sub/escaped", "a" * 300])
def test_names_that_lead_out_of_the_folder_are_refused(
    slides: Path, s3_run: S3, tmp_path: Path, scratch: Path, stage: Callable[..., Stager], name: str
) -> None:
    url, config = s3_run
    upload(slides, url, config)
    slidedat = (slides / "B" / "Slidedat.ini").read_bytes().replace(b"Data0001.dat", name.encode())
    put(f"{url}/B/Slidedat.ini", slidedat, config)
    if name not in ("..",):
        put(f"{url}/B/{name}", b"evil", config)
    with pytest.raises(MissingCompanion), stage(config).local(f"{url}/B.mrxs"):
        pass
    assert not list(tmp_path.rglob("*escaped*"))
    assert not held(scratch)


@pytest.mark.parametrize("name", ["..", ".hidden", "-rf", "$(id);", "å" * 120, "x" * 500])
def test_slide_of_an_odd_name_stays_in_its_folder(
    slides: Path, s3_run: S3, scratch: Path, stage: Callable[..., Stager], name: str
) -> None:
    url, config = s3_run
    for file in [slides / "B.mrxs", *(slides / "B").iterdir()]:
        key = f"{name}.mrxs" if file.suffix == ".mrxs" else f"{name}/{file.name}"
        put(f"{url}/{key}", file.read_bytes(), config)
    with stage(config).local(f"{url}/{name}.mrxs") as path:
        openslide.OpenSlide(path).close()
        assert path.parents[3] == scratch


@pytest.mark.parametrize("change", ["replaced", "shrunken", "deleted", "replaced at the end"])
def test_slide_that_changes_while_it_is_fetched_is_tried_again(
    slides: Path,
    archive: S3,
    scratch: Path,
    stage: Callable[..., Stager],
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    url, config = archive
    content = (slides / "B" / "Data0001.dat").read_bytes()
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    monkeypatch.setattr(fetching, "PART_BYTES", 10_000)
    done: list[int] = []

    def meddle(read: str) -> None:
        if done or not read.endswith("Data0000.dat" if change != "replaced at the end" else "Data0001.dat"):
            return
        done.append(1)
        if change == "deleted":
            s3_client(config).delete_object(Bucket=bucket, Key=f"{prefix}/B/Data0001.dat")
        else:
            put(
                f"{url}/B/Data0001.dat",
                content[: -len(content) // 2] if change == "shrunken" else content[::-1],
                config,
            )

    Reads(monkeypatch, meddle)
    stager = stage(config, fetch_threads=1)
    with pytest.raises(SourceUnreachable) as caught, stager.local(f"{url}/B.mrxs"):
        pass
    assert caught.value.transient
    assert not held(scratch)


def test_faults_on_the_way_are_outlived(
    slides: Path,
    faulty_s3: FaultyS3,
    stage: Callable[..., Stager],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, config, controller = faulty_s3
    monkeypatch.setattr("fossilray.store.files.retry.FIRST_WAIT_S", 0.01)
    upload(slides, url, config)
    for fault in ("slow down", "internal error", "reset", "half a response"):
        controller.fail(fault, method="GET", path="Data0000.dat")
    with stage(config, fetch_threads=2).local(f"{url}/B.mrxs") as path:
        for file in (slides / "B").iterdir():
            assert (path.with_suffix("") / file.name).read_bytes() == file.read_bytes()
    assert not controller.pending()


@pytest.mark.parametrize(("fault", "kind"), [("reset", SourceUnreachable), ("forbidden", SourceAccessDenied)])
def test_store_that_stays_away_is_told_in_a_sentence_without_secrets(
    slides: Path,
    faulty_s3: FaultyS3,
    scratch: Path,
    stage: Callable[..., Stager],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    kind: type[SlideError],
) -> None:
    url, config, controller = faulty_s3
    monkeypatch.setattr("fossilray.store.files.retry.FIRST_WAIT_S", 0.01)
    upload(slides, url, config)
    controller.fail(fault, 200, method="GET", path="Data0001.dat")  # type: ignore[arg-type]
    stager = stage(config)
    stager.prefetch(f"{url}/B.mrxs")
    with pytest.raises(kind) as caught, stager.local(f"{url}/B.mrxs"):
        pass
    text = str(caught.value)
    assert f"cannot read {url}/B/Data0001.dat" in text
    assert SECRET_KEY not in text
    assert "AKIA" not in text
    assert "\n" not in text
    assert not held(scratch)
    controller.heal()
    with stager.local(f"{url}/B.mrxs") as path:
        openslide.OpenSlide(path).close()


def test_slides_are_reached_their_own_way_where_one_is_configured(
    archive: S3, scratch: Path, stage: Callable[..., Stager]
) -> None:
    url, config = archive
    own = AccessConfig(endpoint_url=config.endpoint_url, region=config.region)
    elsewhere = StoreConfig(endpoint_url="http://127.0.0.1:9", tries=1, timeout_s=1)
    with stage(elsewhere, access=own).local(f"{url}/B.mrxs"):
        assert held(scratch)


def test_scratch_that_cannot_be_made_is_told(archive: S3, tmp_path: Path) -> None:
    url, config = archive
    (tmp_path / "file").touch()
    stager = Stager(SlidesConfig(scratch=str(tmp_path / "file")), config)
    stager.prefetch(f"{url}/B.mrxs")
    with pytest.raises(ScratchFull, match=r"set slides\.scratch"), stager.local(f"{url}/B.mrxs"):
        pass


@pytest.mark.faults
@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small disk takes root")
def test_disk_without_room_is_told_and_left_clean(
    slides: Path, archive: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, config = archive
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    stager = Stager(SlidesConfig(scratch=str(disk)), config)
    try:
        with pytest.raises(ScratchFull, match="more than is free"), stager.local(f"{url}/A 1.mrxs"):
            pass
        # Another process may take the room after it was asked for.
        monkeypatch.setattr(Scratch, "free_bytes", lambda scratch: 10**12)
        with pytest.raises(ScratchFull, match="No space left on device"), stager.local(f"{url}/A 1.mrxs"):
            pass
        assert not held(disk)
        put(f"{url}/small.svs", b"pixels", config)
        with stager.local(f"{url}/small.svs") as path:
            assert path.read_bytes() == b"pixels"
    finally:
        stager.close()
        subprocess.run(["umount", str(disk)], check=True)


WORKER = """
import signal, sys, time
from fossilray.core.config import SlidesConfig, StoreConfig
from fossilray.slides.remote.staging import Stager
endpoint, scratch, url, end = sys.argv[1:]
# As Ray's workers do.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
stager = Stager(SlidesConfig(scratch=scratch), StoreConfig(endpoint_url=endpoint, region="us-east-1"))
with stager.local(url + "/A 1.mrxs") as path:
    stager.prefetch(url + "/B.mrxs")
    print(path, flush=True)
    if end == "wait":
        time.sleep(60)
stager.prefetch(url + "/A 1.mrxs")
"""


def start_worker(archive: S3, scratch: Path, end: str) -> subprocess.Popen[str]:
    url, config = archive
    command = [sys.executable, "-c", WORKER, str(config.endpoint_url), str(scratch), url, end]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def await_slide(worker: subprocess.Popen[str]) -> None:
    assert worker.stdout is not None
    assert worker.stdout.readline().strip().endswith("A 1.mrxs")


@pytest.mark.faults
@pytest.mark.parametrize("end", ["exit", "SIGTERM"])
def test_nothing_stays_when_the_process_ends(archive: S3, scratch: Path, end: str) -> None:
    worker = start_worker(archive, scratch, "exit" if end == "exit" else "wait")
    await_slide(worker)
    if end == "SIGTERM":
        worker.terminate()
    worker.communicate(timeout=A_WHILE_S)
    assert not folders(scratch)


@pytest.mark.faults
def test_what_a_killed_process_left_goes_with_the_next_one_and_what_a_living_one_holds_stays(
    archive: S3, scratch: Path, stage: Callable[..., Stager]
) -> None:
    url, config = archive
    killed, living = start_worker(archive, scratch, "wait"), start_worker(archive, scratch, "wait")
    for worker in (killed, living):
        await_slide(worker)
    left = folders(scratch)
    assert len(left) == 2
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=A_WHILE_S)
    assert folders(scratch) == left
    (scratch / "fossilray-notes").mkdir()
    (scratch / "fossilray-notes" / "by a person").touch()
    with stage(config).local(f"{url}/B.mrxs"):
        now = folders(scratch)
    assert len(now & left) == 1
    assert (scratch / "fossilray-notes" / "by a person").exists()
    living.terminate()
    living.communicate(timeout=A_WHILE_S)
    assert not folders(scratch) & left
