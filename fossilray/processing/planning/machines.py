"""Machines by name, this machine, and the number of workers that each runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from fossilray.core.config import RunConfig
from fossilray.core.errors import ConfigError
from fossilray.core.formats import FileRole
from fossilray.core.formats.yaml_text import parse_yaml
from fossilray.processing.planning.model import Machine, Quantity

THIS_MACHINE = "here"
"""Name of this machine."""
_WORKER_GB = 3.0
"""Memory of one CPU worker at most, as the scheduler counts it."""


@dataclass(frozen=True)
class Instance:
    """One type of machine, as its provider describes it."""

    name: str
    gpus: int
    gpu: str | None
    vcpus: int
    memory_gib: float
    network_gbit_s: float | None
    on_demand_per_hour: float | None
    spot_per_hour: float | None = None


def find_instance(name: str, *, file: Path | None = None) -> Instance:
    """Return the instance of that name from the package's table, or from a JSON or YAML file of the same layout.

    `here` is this machine.

    Raises:
        ConfigError: the name is unknown, or the file cannot be read.
    """
    if name == THIS_MACHINE:
        return local_instance()
    known, _ = _table(file)
    if name not in known:
        raise ConfigError(
            f"instance {name!r} is not known; choose {THIS_MACHINE} or one of {', '.join(known)}, or describe it in a "
            "file for --instances"
        )
    return known[name]


def local_instance() -> Instance:
    """Return this machine: its cores, memory and GPUs; network and price are unknown."""
    import torch

    gpus = torch.cuda.device_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Instance(
        name=THIS_MACHINE,
        gpus=gpus,
        gpu=torch.cuda.get_device_name(0) if gpus else None,
        vcpus=len(os.sched_getaffinity(0)),
        memory_gib=memory / 2**30,
        network_gbit_s=None,
        on_demand_per_hour=None,
    )


def machine_of_instance(
    instance: Instance, config: RunConfig, *, price_per_hour: float | None = None, file: Path | None = None
) -> Machine:
    """Return the instance with the number of workers that the job would run on it.

    price_per_hour: the user's price, in any currency; replaces the table's.
    """
    price = None
    if price_per_hour is not None:
        price = Quantity(price_per_hour, "per hour", "stated", "--price")
    elif instance.on_demand_per_hour is not None:
        how = f"placeholder, on-demand list price of {_table(file)[1]}; set yours with --price"
        price = Quantity(instance.on_demand_per_hour, "USD per hour", "assumed", how)
    return Machine(
        name=instance.name,
        cores=instance.vcpus,
        gpus=instance.gpus,
        workers=_workers(instance, config),
        read_threads=config.slides.read_threads,
        network_gbit_s=instance.network_gbit_s,
        price_per_hour=price,
    )


def _workers(instance: Instance, config: RunConfig) -> int:
    workers = config.workers
    if workers.count is not None:
        return workers.count
    if instance.gpus and workers.gpus_per_worker and workers.device != "cpu":
        return max(1, int(instance.gpus / workers.gpus_per_worker + 1e-9))
    by_cores = int(instance.vcpus / workers.cpus_per_worker)
    return max(1, min(by_cores, int(instance.memory_gib * 2**30 / 1e9 / _WORKER_GB)))


def _table(file: Path | None) -> tuple[dict[str, Instance], str]:
    """Return the instances by name, and the date of their prices."""
    where = str(file) if file else "the table of instances"
    try:
        text = (
            file.read_text(encoding="utf-8")
            if file
            else (resources.files(__package__) / "instances.json").read_text(encoding="utf-8")
        )
        # JSON is YAML too.
        tree = parse_yaml(text, FileRole(where, "a table of instances", "correct it", ConfigError))
        known = {row["name"]: Instance(**row) for row in tree["instances"]}
        return known, str(tree.get("priced", "unknown date"))
    except (
        OSError,
        UnicodeDecodeError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
    ) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{where} cannot be read as instances ({reason}); write `instances:` as a list of name, gpus, gpu, vcpus, "
            "memory_gib, network_gbit_s and on_demand_per_hour"
        ) from None
