"""What a run held and costs, against sums made by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.rendered_text import text_of
from support.run_fixtures import a_summary
from support.small_run import start_run, write_small_run

from fossilray.analysis.report import write_report
from fossilray.core.config import load_config
from fossilray.core.heartbeat import Heartbeat
from fossilray.core.schemas import SLIDES_SCHEMA
from fossilray.store.cost import describe_cost, sum_cost
from fossilray.store.files.parquet import to_table
from fossilray.store.status import read_status, render_status

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
BEAT = Heartbeat(
    driver_id="driver-1",
    started_at=(NOW - timedelta(hours=2)).isoformat(),
    beat_at=NOW.isoformat(),
    total=10,
    committed=4,
    failed=1,
    objects=1,
    slides_per_hour=2.0,
    workers=2,
    in_flight=(),
    gpu_hours=4.0,
    core_hours=32.0,
    per_gpu_hour=1.5,
    per_core_hour=0.25,
    currency="NOK",
)
SLIDES = to_table(
    [replace(a_summary(f"s{n}", f"{n:016d}"), seconds_total=1800.0, device="L4/bfloat16") for n in range(4)],
    SLIDES_SCHEMA,
)


def test_what_drivers_held_is_added_up_at_the_prices_each_had() -> None:
    later = replace(BEAT, driver_id="driver-2", gpu_hours=1.0, core_hours=8.0, per_gpu_hour=2.0)
    spending = sum_cost([BEAT, later], SLIDES, left=5)
    assert (spending.so_far.gpu_hours, spending.so_far.core_hours) == (5.0, 40.0)
    assert spending.so_far.money == 4 * 1.5 + 32 * 0.25 + 1 * 2.0 + 8 * 0.25
    assert spending.currency == "NOK"
    assert spending.counts_idle_time


def test_the_rest_is_reckoned_like_the_slides_so_far() -> None:
    spending = sum_cost([BEAT], SLIDES, left=5)
    assert spending.in_all is not None
    assert spending.in_all.gpu_hours == pytest.approx(4.0 * 9 / 4)
    assert spending.in_all.money == pytest.approx(14.0 * 9 / 4)
    assert sum_cost([BEAT], SLIDES, left=0).in_all is None
    assert sum_cost([BEAT], SLIDES_SCHEMA.empty_table(), left=9).in_all is None


def test_a_price_of_ones_own_replaces_that_of_the_drivers() -> None:
    asked = load_config(None, ["cost.per_gpu_hour=10", "cost.currency=EUR"])
    spending = sum_cost([BEAT], SLIDES, left=0, config=asked)
    assert (spending.so_far.money, spending.currency) == (40.0, "EUR")


def test_without_a_price_or_with_prices_in_two_currencies_there_is_no_sum() -> None:
    free = replace(BEAT, per_gpu_hour=None, per_core_hour=None)
    foreign = replace(BEAT, currency="EUR")
    for beats in ([free], [BEAT, free], [BEAT, foreign]):
        assert sum_cost(beats, SLIDES, left=1).so_far.money is None


def test_the_share_of_committed_slides_in_what_was_held_is_told() -> None:
    asked = load_config(None, ["workers.cpus_per_worker=8"])
    # 4 slides of half an hour on 8 cores.
    assert sum_cost([BEAT], SLIDES, left=0, config=asked).busy_share == pytest.approx(16 / 32)


def test_a_run_whose_drivers_told_nothing_is_reckoned_from_its_slides_and_says_so() -> None:
    asked = load_config(
        None, ["workers.cpus_per_worker=8", "workers.gpus_per_worker=0.5", "cost.per_gpu_hour=3"]
    )
    silent = replace(BEAT, gpu_hours=0.0, core_hours=0.0)
    spending = sum_cost([silent], SLIDES, left=0, config=asked)
    assert not spending.counts_idle_time
    assert (spending.so_far.gpu_hours, spending.so_far.core_hours, spending.so_far.money) == (1.0, 16.0, 3.0)


def test_status_shows_hours_cost_and_the_end_as_estimates(tmp_path: Path) -> None:
    store = write_small_run(tmp_path / "run", counts={"a-2030": 2, "b-2050": 1})
    store.attempts.write_heartbeat(BEAT)
    shown = text_of(render_status(read_status(store, now=NOW)))
    assert "4 GPU-hours, 32.0 core-hours held" in shown
    assert "about NOK 14.00 for what workers held" in shown
    # Two are committed, two of the six failed for good, two are left.
    assert "about NOK 28.00, 8 GPU-hours, 64.0 core-hours at the end, if the rest is like" in shown


def test_a_run_that_held_nothing_shows_no_cost(tmp_path: Path) -> None:
    assert "used" not in text_of(render_status(read_status(start_run(tmp_path / "run"), now=NOW)))


def test_the_report_tells_it_in_sentences(tmp_path: Path) -> None:
    told = " ".join(describe_cost(sum_cost([BEAT], SLIDES, left=4)))
    assert "Workers held 4 GPU-hours, 32.0 core-hours" in told
    assert "about NOK 14.00 at the prices of the configuration" in told
    assert "At the end it will be about NOK 28.00" in told
    assert "These are estimates" in told
    store = write_small_run(tmp_path / "run", counts={"a-2030": 2})
    store.attempts.write_heartbeat(BEAT)
    assert "about NOK 14.00" in write_report(store, tmp_path / "report.html").read_text()
