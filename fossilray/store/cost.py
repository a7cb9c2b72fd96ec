"""What a run has held of GPUs and cores, what that costs, and what the rest will; all of it estimates.

Counted is what workers held while they were ready, idle or busy, as drivers wrote it down in their heartbeats:
failed attempts and idle time are in it. Not counted are machines while they start and stop, the head, storage,
requests and traffic, and the seconds between a driver's last sign of life and its death.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from fossilray.core.config import CostConfig, RunConfig, WorkersConfig
from fossilray.core.records import Heartbeat


@dataclass(frozen=True)
class ResourceHours:
    """Hours of what workers held. money: None where no price is known."""

    gpu_hours: float
    core_hours: float
    money: float | None

    def times(self, factor: float) -> ResourceHours:
        """So many times as much."""
        return ResourceHours(
            self.gpu_hours * factor,
            self.core_hours * factor,
            None if self.money is None else self.money * factor,
        )


@dataclass(frozen=True)
class Cost:
    """What a run has taken so far, and what it will have taken at its end if the rest is like the slides so far."""

    so_far: ResourceHours
    in_all: ResourceHours | None
    """None before the first slide is committed, and of a run that has nothing left to do."""
    busy_share: float | None
    """Of the core-hours held, the share in which slides that are committed were worked on."""
    counts_idle_time: bool
    """False: no driver has written down what its workers held, so only the time of committed slides is counted."""
    currency: str


def sum_cost(
    beats: Sequence[Heartbeat], slides: pa.Table, *, left: int, config: RunConfig | None = None
) -> Cost:
    """The spending of a run.

    beats: the last one of every driver. slides: SLIDES_SCHEMA. left: slides that are still to do. config: whose
    prices, where they are set, replace those that each driver had; and whose shares of a machine count for runs
    whose drivers wrote none down.
    """
    asked = config or RunConfig()
    worked = _worked(slides, asked.workers)
    told = [beat for beat in beats if beat.core_hours]
    if told:
        so_far = _held(told, asked.cost)
    else:
        so_far = ResourceHours(
            *worked, money=_price(*worked, asked.cost.per_gpu_hour, asked.cost.per_core_hour)
        )
    committed = slides.num_rows
    return Cost(
        so_far=so_far,
        in_all=so_far.times((committed + left) / committed) if committed and left else None,
        busy_share=min(1.0, worked[1] / so_far.core_hours) if told and so_far.core_hours else None,
        counts_idle_time=bool(told),
        currency=_currency(told, asked.cost),
    )


def describe_hours(held: ResourceHours) -> str:
    """`12.3 GPU-hours, 196.8 core-hours`; without the GPUs where there were none."""
    cores = f"{_number(held.core_hours)} core-hours"
    return f"{_number(held.gpu_hours)} GPU-hours, {cores}" if held.gpu_hours else cores


def describe_money(held: ResourceHours, currency: str) -> str | None:
    """`USD 16.24`, None where no price is known."""
    return None if held.money is None else f"{currency} {held.money:,.2f}".strip()


def describe_cost(spending: Cost) -> list[str]:
    """The spending in plain sentences, each number flagged as the estimate that it is; none if nothing was held."""
    so_far, in_all = spending.so_far, spending.in_all
    if not so_far.core_hours:
        return []
    if spending.counts_idle_time:
        told = [f"Workers held {describe_hours(so_far)}, idle time and failed attempts included."]
        if spending.busy_share is not None:
            told.append(f"About {spending.busy_share:.0%} of that went into slides that are committed.")
    else:
        told = [
            f"Committed slides took {describe_hours(so_far)} of their workers; what these held beside is not known."
        ]
    money = describe_money(so_far, spending.currency)
    if money is not None:
        told.append(f"That is about {money} at the prices of the configuration.")
    if in_all is not None:
        end = ", ".join(filter(None, (describe_money(in_all, spending.currency), describe_hours(in_all))))
        told.append(f"At the end it will be about {end}, if the rest is like the slides so far.")
    told.append(
        "These are estimates: machines while they start, a cluster's head, storage and traffic are not in them."
    )
    return told


def _held(beats: Sequence[Heartbeat], asked: CostConfig) -> ResourceHours:
    money: float | None = 0.0
    for beat in beats:
        is_asked = asked.per_gpu_hour is not None or asked.per_core_hour is not None
        prices = asked if is_asked else beat
        price = _price(beat.gpu_hours, beat.core_hours, prices.per_gpu_hour, prices.per_core_hour)
        # A part without a price, or prices that cannot be added, make no sum.
        has_sum = price is not None and (is_asked or beat.currency == beats[0].currency)
        money = money + price if has_sum and money is not None and price is not None else None
    return ResourceHours(sum(beat.gpu_hours for beat in beats), sum(beat.core_hours for beat in beats), money)


def _price(
    gpu_hours: float, core_hours: float, per_gpu_hour: float | None, per_core_hour: float | None
) -> float | None:
    if per_gpu_hour is None and per_core_hour is None:
        return None
    return gpu_hours * (per_gpu_hour or 0.0) + core_hours * (per_core_hour or 0.0)


def _currency(beats: Sequence[Heartbeat], asked: CostConfig) -> str:
    is_asked = asked.per_gpu_hour is not None or asked.per_core_hour is not None
    return asked.currency if is_asked or not beats else beats[0].currency


def _worked(slides: pa.Table, workers: WorkersConfig) -> tuple[float, float]:
    """GPU-hours and core-hours of the attempts that committed, as far as their rows and the configuration tell."""
    gpu_s = core_s = 0.0
    for device, seconds in zip(
        slides["device"].to_pylist(), slides["seconds_total"].to_pylist(), strict=True
    ):
        core_s += seconds * workers.cpus_per_worker
        if not device.startswith("cpu"):
            gpu_s += seconds * workers.gpus_per_worker
    return gpu_s / 3600, core_s / 3600


def _number(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:.3g}"
