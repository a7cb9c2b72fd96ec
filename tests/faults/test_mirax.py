"""MIRAX slides with parts cut off, missing, blanked or corrupt, through the whole job among sound ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.compare_runs import assert_equal_runs
from support.fault_jobs import settings
from support.recording_display import RecordingDisplay
from support.slides_on_disk import write_slide

from fossilray.core.records import CatalogRow, WorkItem
from fossilray.jobs.process import run_job
from fossilray.processing.worker import SlideWorker
from fossilray.store import RunStore
from fossilray.store.maintenance.verify import verify_run
from fossilray.store.run.run_record import describe_run

pytestmark = pytest.mark.faults

SMALL_TILES = ("tiling.tile_px=512", "embedder.weights=none")


def cut_in_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def blank(file: Path) -> None:
    """As a copy that broke off and was padded."""
    file.write_bytes(bytes(file.stat().st_size))


def corrupt_photos(file: Path) -> None:
    """Overwrite the start of every second JPEG."""
    content = bytearray(file.read_bytes())
    starts = [at for at in range(len(content) - 2) if content[at : at + 3] == b"\xff\xd8\xff"]
    for start in starts[::2]:
        content[start : start + 60] = bytes(60)
    file.write_bytes(content)


# The writer puts rows of photos into data files in turn, each with all its levels: the detector reads the even
# ones, crops come from the odd ones too.
REGIONS_LOST: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (cut_in_half, "Data0000.dat"),
    "blanked": (blank, "Data0004.dat"),
    "corrupt": (corrupt_photos, "Data0000.dat"),
}
SHARPNESS_LOST: dict[str, tuple[Callable[[Path], None], str]] = {"blurred": (blank, "Data0001.dat")}
UNREADABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "lacks-data": (Path.unlink, "Data0002.dat"),
    "lacks-end": (cut_in_half, "Data0002.dat"),
    "half-index": (cut_in_half, "Index.dat"),
    "lacks-index": (Path.unlink, "Index.dat"),
}
REASONS = {
    "lacks-data": "Data0002.dat",
    "lacks-end": "Data0002.dat",
    "half-index": "damaged or incomplete",
    "lacks-index": "Index.dat",
}
SOUND = ("sound-1", "sound-2")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same slide ten times over, eight of them damaged."""
    folder = tmp_path_factory.mktemp("damaged") / "slides"
    write_slide(folder / "sound-1.mrxs", size=3072, objects=20, data_files=7)
    damaged = {**REGIONS_LOST, **SHARPNESS_LOST, **UNREADABLE}
    for name in (*damaged, "sound-2"):
        shutil.copy(folder / "sound-1.mrxs", folder / f"{name}.mrxs")
        shutil.copytree(folder / "sound-1", folder / name)
    for name, (damage, file) in damaged.items():
        damage(folder / name / file)
    return folder


@pytest.fixture(scope="module")
def sound_alone(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """What the sound slides give where there are no others."""
    config = settings(*SMALL_TILES)
    store = RunStore.open(str(tmp_path_factory.mktemp("alone") / "run"))
    store.create_or_check(describe_run(config, {}))
    worker = SlideWorker(store.url, config)
    worker.prepare()
    for name in SOUND:
        assert (
            worker.process(WorkItem.of_slide(CatalogRow(name, str(archive / f"{name}.mrxs")))).failure is None
        )
    return store


@pytest.mark.slow
def test_lost_regions_are_counted_and_the_rest_of_each_slide_is_kept(
    archive: Path, sound_alone: RunStore, tmp_path: Path
) -> None:
    store = run(archive, tmp_path, most_lost=0.9)
    found = {row.slide_id: row for row in store.summaries()}
    assert found.keys() == {*SOUND, *REGIONS_LOST, *SHARPNESS_LOST}
    for row in found.values():
        assert row.tiles_planned == row.tiles_blank + row.tiles_read + row.tiles_failed
        assert (row.tiles_failed > 0) is (row.slide_id in REGIONS_LOST)
    whole = found["sound-1"].objects
    for name in REGIONS_LOST:
        assert 0 < found[name].objects < whole
    for name in SHARPNESS_LOST:
        assert found[name].objects == whole
        assert found[name].crops_coarser + found[name].crops_failed > 0
    assert_neighbours_untouched(store, sound_alone)


@pytest.mark.slow
def test_a_slide_of_which_too_much_is_lost_fails_and_its_neighbours_do_not(
    archive: Path, sound_alone: RunStore, tmp_path: Path
) -> None:
    store = run(archive, tmp_path, most_lost=0.1)
    assert store.committed() == set(SOUND)
    failures = {one.slide_id: one for one in store.attempts.failures()}
    assert len(failures) == len(store.attempts.failures()), "damage is not tried again"
    for name in (*REGIONS_LOST, *SHARPNESS_LOST):
        assert (failures[name].error, failures[name].quarantined) == ("TooManyUnreadableTiles", True)
        assert "than slides.max_lost_share = 0.1" in failures[name].message
        assert not store.files.find(f"arrays/{name}")
    assert_neighbours_untouched(store, sound_alone)


def run(archive: Path, folder: Path, *, most_lost: float) -> RunStore:
    """The job over the archive; slides that cannot be opened are named whatever the limit is."""
    store = RunStore.open(str(folder / "run"))
    config = settings(*SMALL_TILES, f"slides.max_lost_share={most_lost}")
    run_job(str(archive), store.url, config, address="local", display=RecordingDisplay())
    failures = {one.slide_id: one for one in store.attempts.failures()}
    for name, word in REASONS.items():
        assert failures[name].stage == "catalog", "no worker was sent there"
        assert word in failures[name].message
        assert "\n" not in failures[name].message
    assert verify_run(store, deep=True).sound
    return store


def assert_neighbours_untouched(store: RunStore, alone: RunStore) -> None:
    for path in store.committed_files().values():
        if Path(path).stem not in SOUND:
            store.files.delete(path)
    assert_equal_runs(store, alone)
