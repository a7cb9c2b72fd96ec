"""How a job is watched and what it is paid for; nothing here changes results."""

from __future__ import annotations

from pydantic import Field

from fossilray.core.config.base import Section


class WatchConfig(Section):
    """How a job is watched; nothing here changes results."""

    alarm_minutes: float = Field(
        60.0,
        gt=0,
        description="The job says so once when no slide was committed for this long; `status --alarm-minutes` asks the "
        "same of the run directory.",
    )
    trace: tuple[str, ...] = Field(
        (),
        description="slide_ids whose every stage, read and batch is written down as it happens, to "
        "traces/<slide_id>/ of the run directory.",
    )


class CostConfig(Section):
    """What is paid for what workers hold, idle or busy; nothing here changes results."""

    per_gpu_hour: float | None = Field(
        None,
        ge=0,
        description="Price of one GPU held for an hour; of a machine that is paid for as a whole, its price divided by "
        "its GPUs.",
    )
    per_core_hour: float | None = Field(
        None,
        ge=0,
        description="Price of one CPU core held for an hour, where cores are paid for beside the GPUs.",
    )
    currency: str = Field(
        "USD", max_length=12, description="What the prices are in; shown and not converted."
    )
