"""How a job is watched and what it is paid for; nothing here changes results."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fossilray.core.config.base import Section
from fossilray.core.config.choices import Precision


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


_RAYS_OWN = ("CPU", "GPU", "memory", "object_store_memory")


class WorkersConfig(Section):
    """How the job uses the machine or cluster; only torch_threads, precision and compile can change results."""

    count: int | None = Field(
        None,
        ge=1,
        description="Workers; more than the cluster holds now are asked for in waves, so that an autoscaler brings "
        "machines for them. Unset: as many as the cluster holds at the moment, one per GPU share or per CPU share.",
    )
    device: Literal["auto", "cuda", "cpu"] = Field(
        "auto",
        description="auto: workers ask for GPUs once the cluster shows any; cuda: always, so that an autoscaler brings "
        "machines with GPUs to a cluster that has none yet; cpu: never.",
    )
    cpus_per_worker: float = Field(
        0.9,
        gt=0,
        description="CPU cores Ray reserves for a worker; just under a whole one leaves Ray itself room.",
    )
    gpus_per_worker: float = Field(
        1.0,
        ge=0,
        description="GPUs, or the share of one, that Ray reserves for a worker with a GPU: 0.5 puts two on each; 0: "
        "CPU only.",
    )
    accelerator: str | None = Field(
        None,
        min_length=1,
        description="Only GPUs of this type, by Ray's name for it (L4, A10G, A100); an autoscaler must know of it as "
        "the resource accelerator_type:NAME. Unset: any, also of several types.",
    )
    resources: dict[str, float] = Field(
        {},
        description="Custom resources that Ray reserves for a worker, such as {scratch: 1}, for machines that were "
        "started with them.",
    )
    placement: Literal["spread", "default"] = Field(
        "spread",
        description="spread: over as many machines as there are, which share the load on disks and network links and "
        "lose fewer slides with one of them; default: as Ray does by itself, one machine to half before the next.",
    )
    patience_minutes: float = Field(
        30.0,
        gt=0,
        description="How long a job that has no worker at all waits for a machine to run one on, before it stops; "
        "what it waits for is told after a minute, or after half of this.",
    )
    torch_threads: int = Field(
        1, ge=1, description="Threads of PyTorch inside a worker; changes the last bits."
    )
    precision: Precision = Field(
        "auto",
        description="auto: networks run in bfloat16 where the processor or GPU multiplies it natively; float32: "
        "always. Changes scores and embeddings in their last digits.",
    )
    compile: bool = Field(
        False,
        description="The embedder's network goes through torch.compile when a worker starts, which takes it a minute "
        "or so and, without a GPU, a C++ compiler. Changes embeddings in their last digits.",
    )
    max_deaths: int = Field(3, ge=1, description="A slide that killed its worker this often is quarantined.")
    max_tries: int = Field(
        3,
        ge=1,
        description="Tries of a slide whose failures are transient. One that ends each of them in an exception that no "
        "rule expects is quarantined then.",
    )
    alike_slides: int = Field(
        10,
        ge=2,
        description="The job stops when at least this many slides fail by the same exception at the same place of the "
        "program, and they are more than alike_share of all slides that ended: a fault of the program, not of slides.",
    )
    alike_share: float = Field(
        0.5, gt=0, le=1, description="Share of the slides that ended in this job; 1: it never stops for it."
    )
    retry_after_s: float = Field(
        5.0,
        ge=0,
        description="Wait before a slide with a transient failure is tried again; doubles with every try, and varies.",
    )
    deadline_minutes: float = Field(120.0, gt=0, description="An attempt older than this commits nothing.")
    stall_minutes: float = Field(
        15.0,
        gt=0,
        description="A worker that makes no progress within a stage for this long is stopped, and its slide tried "
        "elsewhere.",
    )
    memory_gb: float | None = Field(
        None,
        gt=0,
        description="A worker that holds more memory than this is stopped, and its slide tried elsewhere; unset: "
        "only Ray's own guard of the whole machine.",
    )

    @model_validator(mode="after")
    def _ray_can_reserve_it(self) -> Self:
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise ValueError("gpus_per_worker is a share of one GPU, such as 0.5, or a whole number of them")
        for name, amount in self.resources.items():
            if name in _RAYS_OWN or name.startswith("accelerator_type:"):
                raise ValueError(
                    f"resources are custom ones; for {name} there are cpus_per_worker, gpus_per_worker, accelerator "
                    "and memory_gb"
                )
            if not 0 < amount < 1 and (amount < 1 or amount % 1):
                raise ValueError(f"resources: {name} must be a share of one, or a whole number")
        if self.accelerator is not None and (self.device == "cpu" or not self.gpus_per_worker):
            raise ValueError("accelerator names a type of GPU, and workers on the CPU have none")
        return self
