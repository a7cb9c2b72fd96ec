"""Workers die, hang and swell at every stage of real slides; the run ends as if they had not."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.compare_runs import assert_equal_runs
from support.fault_jobs import counts_of, run_with
from support.faulty_worker import Fault, Stage
from support.slides_on_disk import write_slide

from fossilray.store import RunStore

pytestmark = pytest.mark.faults

STAGES: tuple[Stage, ...] = (
    "reading",
    "detecting",
    "embedding",
    "writing arrays",
    "before the commit",
    "after the commit",
)


def test_workers_killed_at_every_stage_change_nothing(
    some_slides: Path, sound_run: RunStore, shared_ray: str, tmp_path: Path
) -> None:
    faults = [Fault(slide_id, stage) for slide_id, stage in zip("abcdef", STAGES, strict=True)]
    kill_and_compare(faults, some_slides, sound_run, shared_ray, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_worker_killed_at_one_stage_changes_nothing(
    stage: Stage, some_slides: Path, sound_run: RunStore, shared_ray: str, tmp_path: Path
) -> None:
    faults = [Fault("b", stage), Fault("c", stage, times=2)]
    kill_and_compare(faults, some_slides, sound_run, shared_ray, tmp_path)


def test_slides_that_break_the_reader_hang_or_swell_are_quarantined_and_their_neighbours_are_not(
    some_slides: Path, sound_run: RunStore, shared_ray: str, tmp_path: Path
) -> None:
    store = RunStore.open(str(tmp_path / "run"))
    faults = [
        Fault("a", "reading", "segfault", times=9),
        Fault("b", "detecting", "hang", times=9),
        Fault("c", "embedding", "swell", times=9),
    ]
    result, display = run_with(
        faults,
        some_slides,
        store,
        tmp_path / "marks",
        counts=counts_of(sound_run),
        address=shared_ray,
        more=("workers.max_deaths=1", "workers.stall_minutes=0.1", "workers.memory_gb=1.5"),
    )
    assert store.committed() == set("defg")
    assert {failure.slide_id: failure.error for failure in result.failures} == {
        "a": "WorkerDied",
        "b": "Stalled",
        "c": "MemoryExceeded",
    }
    assert all(failure.quarantined for failure in result.failures)
    marks = {path.name for path in (tmp_path / "marks").iterdir()}
    assert marks - {"b.1"} == {"a.0", "b.0", "c.0"}  # a slide that hangs may be copied as a straggler
    assert sum("quarantined" in line for line in display.messages) == 3


@pytest.mark.slow
def test_of_forty_slides_exactly_the_three_poisoned_are_quarantined(shared_ray: str, tmp_path: Path) -> None:
    names = [f"s{number:02d}" for number in range(40)]
    for name in names:
        write_slide(tmp_path / "slides" / f"{name}.mrxs", size=1024, objects=4)
    store = RunStore.open(str(tmp_path / "run"))
    poisoned = {"s05", "s06", "s31"}
    faults = [Fault(name, "reading", "segfault", times=9) for name in sorted(poisoned)]
    result, _ = run_with(
        faults,
        tmp_path / "slides",
        store,
        tmp_path / "marks",
        counts=dict.fromkeys(names, 4),
        address=shared_ray,
    )
    assert {failure.slide_id for failure in result.failures if failure.quarantined} == poisoned
    assert store.committed() == set(names) - poisoned
    assert len(list((tmp_path / "marks").iterdir())) == 9


def kill_and_compare(
    faults: list[Fault], slides: Path, sound: RunStore, address: str, tmp_path: Path
) -> None:
    store = RunStore.open(str(tmp_path / "run"))
    result, _ = run_with(faults, slides, store, tmp_path / "marks", counts=counts_of(sound), address=address)
    assert (result.tally.committed, result.tally.failed) == (7, 0)
    assert len(list((tmp_path / "marks").iterdir())) == sum(fault.times for fault in faults)
    assert_equal_runs(store, sound)
