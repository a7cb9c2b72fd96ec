"""Estimates of a run's cost: GPU-hours and core-hours held so far, their price, and the total at the end.

Resources count while workers were ready, idle or busy, as the heartbeats of drivers record them, so failed attempts and
idle time are included. Machines while they start and stop, the head, storage, requests and traffic, and the seconds
between a driver's last heartbeat and its death are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from fossilray.core.config import CostConfig, RunConfig, WorkersConfig
from fossilray.core.heartbeat import Heartbeat


@dataclass(frozen=True)
class ResourceHours:
    """Hours of the resources that workers held. money: None where no price is known."""

    gpu_hours: float
    core_hours: float
    money: float | None

    def times(self, factor: float) -> ResourceHours:
        """Return these hours and their price multiplied by a factor."""
        return ResourceHours(
            self.gpu_hours * factor,
            self.core_hours * factor,
            None if self.money is None else self.money * factor,
        )


@dataclass(frozen=True)
class Cost:
    """The cost of a run so far, and its total at the end if the remaining slides are like those so far."""

    so_far: ResourceHours
    in_all: ResourceHours | None
    """None before the first commit, and for a run without slides left to process."""
    busy_share: float | None
    """The fraction (0 to 1) of the core-hours in which slides that are now committed were processed."""
    counts_idle_time: bool
    """False where no heartbeat records resources, so that only the time of committed slides is counted."""
    currency: str


def sum_cost(
    heartbeats: Sequence[Heartbeat], slides: pa.Table, *, left: int, config: RunConfig | None = None
) -> Cost:
    """Sum up the cost of a run.

    heartbeats: the last one of every driver. slides: SLIDES_SCHEMA. left: slides that are not processed yet. config:
    its prices, where set, replace those of the drivers; its resources per worker count for runs whose heartbeats
    record none.
    """
    settings = config or RunConfig()
    worked = _worked(slides, settings.workers)
    recorded = [heartbeat for heartbeat in heartbeats if heartbeat.core_hours]
    if recorded:
        so_far = _held(recorded, settings.cost)
    else:
        so_far = ResourceHours(
            *worked, money=_price(*worked, settings.cost.per_gpu_hour, settings.cost.per_core_hour)
        )
    committed = slides.num_rows
    return Cost(
        so_far=so_far,
        in_all=so_far.times((committed + left) / committed) if committed and left else None,
        busy_share=min(1.0, worked[1] / so_far.core_hours) if recorded and so_far.core_hours else None,
        counts_idle_time=bool(recorded),
        currency=_currency(recorded, settings.cost),
    )


def describe_hours(held: ResourceHours) -> str:
    """Format hours as `12.3 GPU-hours, 196.8 core-hours`, without GPUs where none were held."""
    cores = f"{_number(held.core_hours)} core-hours"
    return f"{_number(held.gpu_hours)} GPU-hours, {cores}" if held.gpu_hours else cores


def describe_money(held: ResourceHours, currency: str) -> str | None:
    """Format a price as `USD 16.24`; None where no price is known."""
    return None if held.money is None else f"{currency} {held.money:,.2f}".strip()


def describe_cost(spending: Cost) -> list[str]:
    """Describe the cost in sentences that call the numbers estimates; empty if no resources were held."""
    so_far, in_all = spending.so_far, spending.in_all
    if not so_far.core_hours:
        return []
    if spending.counts_idle_time:
        sentences = [f"Workers held {describe_hours(so_far)}, idle time and failed attempts included."]
        if spending.busy_share is not None:
            sentences.append(f"About {spending.busy_share:.0%} of that went into slides that are committed.")
    else:
        sentences = [
            f"Committed slides took {describe_hours(so_far)} of their workers; what else these held is not known."
        ]
    money = describe_money(so_far, spending.currency)
    if money is not None:
        sentences.append(f"That is about {money} at the prices of the configuration.")
    if in_all is not None:
        end = ", ".join(filter(None, (describe_money(in_all, spending.currency), describe_hours(in_all))))
        sentences.append(f"At the end it will be about {end}, if the rest is like the slides so far.")
    sentences.append(
        "These are estimates: machines while they start, a cluster's head, storage and traffic are not in them."
    )
    return sentences


def _held(heartbeats: Sequence[Heartbeat], cost: CostConfig) -> ResourceHours:
    money: float | None = 0.0
    has_prices = _has_prices(cost)
    for heartbeat in heartbeats:
        prices = cost if has_prices else heartbeat
        price = _price(heartbeat.gpu_hours, heartbeat.core_hours, prices.per_gpu_hour, prices.per_core_hour)
        # There is no sum where one driver has no price, or another currency.
        has_sum = price is not None and (has_prices or heartbeat.currency == heartbeats[0].currency)
        money = money + price if has_sum and money is not None and price is not None else None
    return ResourceHours(
        sum(heartbeat.gpu_hours for heartbeat in heartbeats),
        sum(heartbeat.core_hours for heartbeat in heartbeats),
        money,
    )


def _has_prices(cost: CostConfig) -> bool:
    return cost.per_gpu_hour is not None or cost.per_core_hour is not None


def _price(
    gpu_hours: float, core_hours: float, per_gpu_hour: float | None, per_core_hour: float | None
) -> float | None:
    if per_gpu_hour is None and per_core_hour is None:
        return None
    return gpu_hours * (per_gpu_hour or 0.0) + core_hours * (per_core_hour or 0.0)


def _currency(heartbeats: Sequence[Heartbeat], cost: CostConfig) -> str:
    return cost.currency if _has_prices(cost) or not heartbeats else heartbeats[0].currency


def _worked(slides: pa.Table, workers: WorkersConfig) -> tuple[float, float]:
    """GPU-hours and core-hours of committed attempts, by the seconds in their rows and the configuration."""
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
