"""Configuration of workers, monitoring and prices of a job."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fossilray.core.config.base import Section
from fossilray.core.config.choices import Precision


class WatchConfig(Section):
    """Monitoring of a job. Does not change results."""

    alarm_minutes: float = Field(
        60.0,
        gt=0,
        description="Warn once if no slide was committed for this long. `status --alarm-minutes` checks the "
        "same in the run directory.",
    )
    trace: tuple[str, ...] = Field(
        (),
        description="slide_ids to trace: every stage, read and batch is recorded in traces/<slide_id>/ of the "
        "run directory.",
    )


class CostConfig(Section):
    """Prices of the resources that workers hold, idle or busy. Does not change results."""

    per_gpu_hour: float | None = Field(
        None,
        ge=0,
        description="Price of one GPU for an hour; for a machine billed as a whole, its price divided by its "
        "GPUs.",
    )
    per_core_hour: float | None = Field(
        None,
        ge=0,
        description="Price of one CPU core for an hour, if cores are billed separately from GPUs.",
    )
    currency: str = Field("USD", max_length=12, description="Currency of the prices; shown, not converted.")


_RAYS_OWN = ("CPU", "GPU", "memory", "object_store_memory")


class WorkersConfig(Section):
    """Use of the machine or cluster. Only torch_threads, precision and compile can change results."""

    count: int | None = Field(
        None,
        ge=1,
        description="Number of workers. More than the cluster has room for are requested in waves, so that an "
        "autoscaler adds machines. Unset: as many as the cluster has room for now, one per GPU "
        "share or per CPU share.",
    )
    device: Literal["auto", "cuda", "cpu"] = Field(
        "auto",
        description="auto: workers use GPUs if the cluster has any; cuda: workers request GPUs always, so "
        "that an autoscaler adds machines with GPUs; cpu: never.",
    )
    cpus_per_worker: float = Field(
        0.9,
        gt=0,
        description="CPU cores that Ray reserves for a worker; slightly less than one leaves room for Ray "
        "itself.",
    )
    gpus_per_worker: float = Field(
        1.0,
        ge=0,
        description="GPUs, or share of one, that Ray reserves for a worker: 0.5 puts two workers on each GPU; "
        "0 means CPU only.",
    )
    accelerator: str | None = Field(
        None,
        min_length=1,
        description="Type of GPU by Ray's name for it (L4, A10G, A100); an autoscaler must declare it as the "
        "resource accelerator_type:NAME. Unset: any type.",
    )
    resources: dict[str, float] = Field(
        {},
        description="Custom resources that Ray reserves for a worker, such as {scratch: 1}, for machines that "
        "were started with them.",
    )
    placement: Literal["spread", "default"] = Field(
        "spread",
        description="spread: over as many machines as possible, which spreads the load on disks and networks "
        "and loses fewer slides with a machine; default: Ray's own rule, which fills one machine "
        "to half before the next.",
    )
    patience_minutes: float = Field(
        30.0,
        gt=0,
        description="How long a job without any worker waits for a machine before it stops. It reports what "
        "it waits for after a minute, or after half of this time.",
    )
    torch_threads: int = Field(
        1, ge=1, description="PyTorch threads per worker; changes results in their last bits."
    )
    precision: Precision = Field(
        "auto",
        description="auto: networks run in bfloat16 if the processor or GPU multiplies it natively; float32: "
        "always float32. Changes scores and embeddings in their last digits.",
    )
    compile: bool = Field(
        False,
        description="Compile the embedder's network with torch.compile when a worker starts, which takes "
        "about a minute and, without a GPU, needs a C++ compiler. Changes embeddings in their "
        "last digits.",
    )
    max_deaths: int = Field(
        3, ge=1, description="Number of worker deaths after which the slide in progress is quarantined."
    )
    max_tries: int = Field(
        3,
        ge=1,
        description="Attempts at a slide whose failures are transient. A slide that ends each of them in an "
        "unexpected exception is then quarantined.",
    )
    alike_slides: int = Field(
        10,
        ge=2,
        description="The job stops if at least this many slides fail by the same exception at the same line "
        "of the program, and they are more than alike_share of all finished slides: the program "
        "is at fault, not the slides.",
    )
    alike_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of the slides that finished in this job; with 1 the job never stops for this "
        "reason.",
    )
    retry_after_s: float = Field(
        5.0,
        ge=0,
        description="Seconds before a slide with a transient failure is tried again; doubles with every "
        "attempt, with random variation.",
    )
    deadline_minutes: float = Field(120.0, gt=0, description="An attempt older than this cannot commit.")
    stall_minutes: float = Field(
        15.0,
        gt=0,
        description="A worker without progress within a stage for this long is stopped, and its slide is "
        "tried elsewhere.",
    )
    memory_gb: float | None = Field(
        None,
        gt=0,
        description="A worker that uses more memory than this is stopped, and its slide is tried elsewhere. "
        "Unset: only Ray's own limit for the whole machine applies.",
    )

    @model_validator(mode="after")
    def _ray_can_reserve_it(self) -> Self:
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise ValueError("gpus_per_worker must be a share of one GPU, such as 0.5, or a whole number")
        for name, amount in self.resources.items():
            if name in _RAYS_OWN or name.startswith("accelerator_type:"):
                raise ValueError(
                    f"resources must be custom ones; use cpus_per_worker, gpus_per_worker, accelerator and memory_gb "
                    f"instead of {name}"
                )
            if not 0 < amount < 1 and (amount < 1 or amount % 1):
                raise ValueError(f"resources: {name} must be a share of one, or a whole number")
        if self.accelerator is not None and (self.device == "cpu" or not self.gpus_per_worker):
            raise ValueError("accelerator is a type of GPU, and workers on the CPU have none")
        return self
