"""Jobs over stored crops whose worker or driver is killed, and several at once, on a Ray that they share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from support.inference_driver import classify_slowly, fit_head, start
from support.small_run import COUNTS, write_small_run
from support.waiting import wait_for

from fossilray.store import RunStore
from fossilray.store.derived.derived_store import DerivedStore
from fossilray.store.maintenance.verify import verify_run

pytestmark = pytest.mark.faults

GENERA = ("Alnus", "Betula", "Corylus")
OTHERS = ("Picea", "Pinus")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return write_small_run(tmp_path_factory.mktemp("archive") / "run")


@pytest.fixture(scope="module")
def head(run: RunStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_head(run, tmp_path_factory.mktemp("heads") / "genera.safetensors", classes=GENERA)


@pytest.fixture(scope="module")
def sound(run: RunStore, head: Path, shared_ray: str) -> DerivedStore:
    """The predictions of a job without faults."""
    assert classify_slowly(run.url, "sound", head, shared_ray).exit_code == 0
    return DerivedStore.open(run, "predictions", "sound")


def test_a_killed_worker_costs_a_second_try_and_the_predictions_are_equal(
    run: RunStore, head: Path, sound: DerivedStore, shared_ray: str
) -> None:
    result = classify_slowly(run.url, "worker", head, shared_ray, die_at="b-2050")
    assert Path(f"{head}.worker.killed").exists(), "no worker was killed"
    assert (result.exit_code, result.tally.committed, len(result.failures)) == (0, 4, 0)
    assert_equal(DerivedStore.open(run, "predictions", "worker"), sound)


def test_a_killed_driver_leaves_whole_slides_and_the_same_command_finishes(
    run: RunStore, head: Path, sound: DerivedStore, shared_ray: str
) -> None:
    driver = start(run.url, "driver", head, shared_ray, pause_s=1.0)
    derived = wait_for_first(run, "driver")
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait(timeout=60)
    done = {path: derived.files.read(path) for path in derived.committed_files().values()}
    assert 0 < len(done) < len(COUNTS), "the driver was too quick to be killed"
    result = classify_slowly(run.url, "driver", head, shared_ray)
    assert (result.exit_code, result.tally.total) == (0, len(COUNTS))
    assert result.tally.already_committed >= len(done)
    assert {path: derived.files.read(path) for path in done} == done, (
        "what was committed is not written again"
    )
    assert_equal(derived, sound)
    assert not derived.attempts.failures(), "slides in flight under a killed driver have no failure"


def test_two_jobs_at_once_predict_each_slide_once(
    run: RunStore, head: Path, sound: DerivedStore, shared_ray: str
) -> None:
    reports = finish(*(start(run.url, "both", head, shared_ray, pause_s=0.3) for _ in range(2)))
    assert [report["exit_code"] for report in reports] == [0, 0]
    derived = DerivedStore.open(run, "predictions", "both")
    files = [path for path in derived.files.find("") if path.endswith(".parquet")]
    assert len(files) == len(COUNTS)
    assert sum(report["objects"] for report in reports) == sum(COUNTS.values()), (
        "an object counts for one of them"
    )
    assert_equal(derived, sound)


def test_two_heads_beside_each_other_do_not_meet(
    run: RunStore, head: Path, sound: DerivedStore, shared_ray: str
) -> None:
    other = fit_head(run, head.parent / "others.safetensors", classes=OTHERS)
    reports = finish(
        start(run.url, "first", head, shared_ray, pause_s=0.2),
        start(run.url, "second", other, shared_ray, pause_s=0.2),
    )
    assert [(report["committed"], report["exit_code"]) for report in reports] == [(4, 0), (4, 0)]
    assert_equal(DerivedStore.open(run, "predictions", "first"), sound)
    second = DerivedStore.open(run, "predictions", "second")
    assert {genus for slide_id in COUNTS for genus in second.read(slide_id)["genus"].to_pylist()} <= {*OTHERS}
    assert not [one for one in verify_run(run, deep=True).findings if one.kind in ("derived", "outdated")]


def assert_equal(derived: DerivedStore, sound: DerivedStore) -> None:
    assert derived.committed() == set(COUNTS)
    for slide_id in COUNTS:
        assert derived.read(slide_id).equals(sound.read(slide_id)), slide_id


def wait_for_first(run: RunStore, name: str) -> DerivedStore:
    """The predictions, once a slide with objects has some."""

    def is_there() -> bool:
        return bool(run.files.names(f"predictions/{name}")) and bool(
            DerivedStore.open(run, "predictions", name).committed()
        )

    wait_for(is_there, 240)
    return DerivedStore.open(run, "predictions", name)


def finish(*drivers: subprocess.Popen[str]) -> list[dict[str, int]]:
    """What each driver printed at its end."""
    try:
        reports = [driver.communicate(timeout=300) for driver in drivers]
    finally:
        for driver in drivers:
            driver.kill()
    assert all(output.strip() for output, _ in reports), [errors[-2000:] for _, errors in reports]
    return [json.loads(output.strip().splitlines()[-1]) for output, _ in reports]
