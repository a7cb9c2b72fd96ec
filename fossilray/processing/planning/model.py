"""Model of an estimate: from a workload, rates and a machine to times and the limiting resource.

The time of a worker, as `fossilray.processing.worker` overlaps its parts:
- the next slide is fetched while this one is processed, so the network runs in parallel to everything else;
- opening with its overview, detection, merging, crops, and picture with commit follow one another;
- in detection, threads read tiles while the detector computes on earlier ones: the slower of the two counts;
- for crops, threads cut, measure and encode the next batch while this one is embedded: the slower counts.
Workers run in parallel, so a machine is also limited by its cores, its GPUs and its network as a whole. The result is
the bound of the slowest resource; queues that run empty now and then cost a real run somewhat more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

Source = Literal["measured here", "measured in a run", "stated", "assumed", "from the catalog", "computed"]


@dataclass(frozen=True)
class Quantity:
    """A number with its unit, its source, and a note on how it was obtained."""

    value: float
    unit: str
    source: Source
    how: str = ""


@dataclass(frozen=True)
class Workload:
    """The work of all slides together."""

    slides: Quantity
    gigapixels: Quantity
    """Level-0 pixels of the scanned areas."""
    scanned_mm2: Quantity
    detector_megapixels: Quantity
    """Pixels at detection scale that the detector is shown, halos included."""
    objects: Quantity
    bytes_read: Quantity
    bytes_per_object: Quantity
    """Bytes of one object in the run directory."""


@dataclass(frozen=True)
class Rates:
    """The rate of each part of the work; None where another part's rate includes it.

    Rates of CPU work are per core.
    """

    fixed_s_per_slide: Quantity
    """Opening, picture, commit."""
    overview_mm2_per_s: Quantity | None
    read_mp_per_s: Quantity | None
    """Megapixels at detection scale: reading, decoding and resizing."""
    detector_mp_per_s: Quantity
    merged_objects_per_s: Quantity
    cut_objects_per_s: Quantity | None
    measured_objects_per_s: Quantity
    encoded_objects_per_s: Quantity | None
    embedded_objects_per_s: Quantity | None
    """Also None without an embedder."""
    on_gpu: bool = False
    """Detector and embedder were timed on a GPU, not on one core."""


@dataclass(frozen=True)
class Machine:
    """The resources of one machine, and the number of workers on it."""

    name: str
    cores: int
    gpus: int
    workers: int
    read_threads: int
    """Reading threads of each worker."""
    network_gbit_s: float | None = None
    """None: the network does not limit."""
    price_per_hour: Quantity | None = None


@dataclass(frozen=True)
class Part:
    """One part of the work on the mean slide."""

    name: str
    seconds: float
    """Seconds on one core, or on one GPU."""
    on_gpu: bool = False


@dataclass(frozen=True)
class Stage:
    """One stage of a worker; its parts overlap, so the longest counts."""

    name: str
    seconds: float
    decided_by: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class ArchiveEstimate:
    """The whole archive on a number of equal machines."""

    workload: Workload
    rates: Rates
    machine: Machine
    machines: int
    stages: tuple[Stage, ...]
    limits: Mapping[str, float]
    """Seconds per slide by resource of one machine; the largest is the time of a slide."""
    bottleneck: str

    @property
    def seconds_per_slide(self) -> float:
        """Seconds per slide of one machine."""
        return max(self.limits.values())

    @property
    def slides_per_hour(self) -> float:
        """Rate of all machines together."""
        return 3600 / self.seconds_per_slide * self.machines

    @property
    def hours(self) -> float:
        return self.workload.slides.value / self.slides_per_hour

    @property
    def days(self) -> float:
        return self.hours / 24

    @property
    def machine_hours(self) -> float:
        return self.hours * self.machines

    @property
    def gpu_hours(self) -> float:
        """Hours of the machines' GPUs, busy or idle."""
        return self.machine_hours * self.machine.gpus

    @property
    def gpu_busy_share(self) -> float:
        return self.limits.get(GPU, 0.0) / self.seconds_per_slide

    @property
    def money(self) -> float | None:
        price = self.machine.price_per_hour
        return None if price is None else self.machine_hours * price.value

    @property
    def stored_bytes(self) -> float:
        return self.workload.objects.value * self.workload.bytes_per_object.value

    def machines_for(self, days: float) -> int:
        """Number of such machines that finish within this number of days."""
        return max(1, ceil(self.machine_hours / (24 * days) - 1e-9))


CORES, GPU, NETWORK, WORKERS = "cores", "GPU", "network", "workers in turn"


def estimate(workload: Workload, rates: Rates, machine: Machine, *, machines: int = 1) -> ArchiveEstimate:
    """Estimate the time of a workload on `machines` such machines.

    Raises:
        ValueError: a rate, a machine or the number of slides is not positive.
    """
    if machines < 1 or machine.workers < 1 or machine.cores < 1 or workload.slides.value <= 0:
        raise ValueError("an estimate needs a slide, a machine, a core and a worker")
    if rates.on_gpu and not machine.gpus:
        raise ValueError(f"{machine.name} has no GPU, and the rates are of one")
    stages = tuple(_stages(workload, rates, machine))
    limits = _limits(stages, workload, machine)
    return ArchiveEstimate(
        workload, rates, machine, machines, stages, limits, bottleneck=_bottleneck(stages, limits)
    )


def _stages(workload: Workload, rates: Rates, machine: Machine) -> list[Stage]:
    slides = workload.slides.value
    megapixels = workload.detector_megapixels.value / slides
    objects = workload.objects.value / slides
    gpu = rates.on_gpu
    opening = [Part("opening, picture, commit", rates.fixed_s_per_slide.value)]
    if rates.overview_mm2_per_s is not None:
        overview_s = _seconds(workload.scanned_mm2.value / slides, rates.overview_mm2_per_s)
        opening.append(Part("overview", overview_s))
    detecting = Part("detector", _seconds(megapixels, rates.detector_mp_per_s), gpu)
    measuring = [Part("measuring", _seconds(objects, rates.measured_objects_per_s))]
    embedding = [
        replace(part, on_gpu=gpu) for part in _parts("embedder", objects, rates.embedded_objects_per_s)
    ]
    merging = Part("merging", _seconds(objects, rates.merged_objects_per_s))
    reading = _parts("reading tiles", megapixels, rates.read_mp_per_s)
    cutting = _parts("cutting crops", objects, rates.cut_objects_per_s)
    encoding = _parts("encoding crops", objects, rates.encoded_objects_per_s)
    return [
        _stage("open and commit", [(opening, 1)]),
        _stage("detect", [(reading, machine.read_threads), ([detecting], 1)]),
        _stage("merge", [([merging], 1)]),
        _stage(
            "crops",
            [([*cutting, *measuring, *encoding], machine.read_threads), (embedding, 1)]
            if cutting
            # A run records the time of all threads together that embedding does not hide.
            else [([*measuring, *embedding], 1), (encoding, 1)],
        ),
    ]


def _parts(name: str, amount: float, rate: Quantity | None) -> list[Part]:
    return [] if rate is None else [Part(name, _seconds(amount, rate))]


def _seconds(amount: float, rate: Quantity) -> float:
    if rate.value <= 0:
        raise ValueError(f"a rate of {rate.value:g} {rate.unit} never ends")
    return amount / rate.value


def _stage(name: str, lanes: list[tuple[list[Part], int]]) -> Stage:
    """lanes: parts that follow one another, with the number of threads that share them; lanes run in parallel."""
    timed = [(sum(part.seconds for part in parts) / threads, parts) for parts, threads in lanes if parts]
    seconds, slowest = max(timed, key=lambda lane: lane[0])
    decided_by = max(slowest, key=lambda part: part.seconds).name
    return Stage(name, seconds, decided_by, tuple(part for _, parts in timed for part in parts))


def _limits(stages: tuple[Stage, ...], workload: Workload, machine: Machine) -> dict[str, float]:
    parts = [part for stage in stages for part in stage.parts]
    limits = {
        WORKERS: sum(stage.seconds for stage in stages) / machine.workers,
        CORES: sum(part.seconds for part in parts if not part.on_gpu) / machine.cores,
    }
    if machine.gpus:
        limits[GPU] = sum(part.seconds for part in parts if part.on_gpu) / machine.gpus
    if machine.network_gbit_s is not None:
        bits = 8 * workload.bytes_read.value / workload.slides.value
        limits[NETWORK] = bits / (machine.network_gbit_s * 1e9)
    return limits


def _bottleneck(stages: tuple[Stage, ...], limits: Mapping[str, float]) -> str:
    """The limiting resource, and the part that keeps it most busy."""
    resource = max(limits, key=lambda name: limits[name])
    if resource == NETWORK:
        return "network (bytes of slides)"
    if resource == WORKERS:
        stage = max(stages, key=lambda stage: stage.seconds)
        return f"workers in turn (mostly {stage.decided_by})"
    busy = [part for stage in stages for part in stage.parts if part.on_gpu == (resource == GPU)]
    return f"{resource} (mostly {max(busy, key=lambda part: part.seconds).name})"
