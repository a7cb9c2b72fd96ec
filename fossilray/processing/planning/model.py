"""The arithmetic of an estimate: a workload, rates and a machine give times, and say what limits them.

How a worker's time is made up, as `fossilray.processing.worker` overlaps it:
- the next slide is fetched while this one is worked on, so the network runs beside everything else;
- opening with its overview, detection, merging, crops, and picture with commit follow one another;
- in detection, threads read tiles while the detector looks at earlier ones: the slower of the two counts;
- among the crops, threads cut, measure and encode the next batch while this one is embedded: the slower counts.
Workers run side by side, so a machine is also limited by its cores, its GPUs and its network as a whole. What
comes out is the bound of whichever is slowest; queues that run empty now and then cost a real run somewhat more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

Source = Literal["measured here", "measured in a run", "stated", "assumed", "from the catalog", "computed"]


@dataclass(frozen=True)
class Quantity:
    """A number, its unit, where it comes from, and how."""

    value: float
    unit: str
    source: Source
    how: str = ""


@dataclass(frozen=True)
class Workload:
    """What there is to do, summed over all slides."""

    slides: Quantity
    gigapixels: Quantity
    """Level-0 pixels of the scanned areas."""
    scanned_mm2: Quantity
    detector_megapixels: Quantity
    """Pixels at detection scale that the detector sees, halos included."""
    objects: Quantity
    bytes_read: Quantity
    bytes_per_object: Quantity
    """What an object leaves in the run directory."""


@dataclass(frozen=True)
class Rates:
    """How fast each part goes; None where it is not told apart from another, whose rate then includes it.

    Rates of CPU work are per core.
    """

    fixed_s_per_slide: Quantity
    """Opening, picture, commit."""
    overview_mm2_per_s: Quantity | None
    read_mp_per_s: Quantity | None
    """Megapixels at detection scale, read and decoded and resized."""
    detector_mp_per_s: Quantity
    merged_objects_per_s: Quantity
    cut_objects_per_s: Quantity | None
    measured_objects_per_s: Quantity
    encoded_objects_per_s: Quantity | None
    embedded_objects_per_s: Quantity | None
    """None also where nothing is embedded."""
    on_gpu: bool = False
    """Detector and embedder were timed on a GPU; otherwise on one core."""


@dataclass(frozen=True)
class Machine:
    """What one machine offers, and how many workers share it."""

    name: str
    cores: int
    gpus: int
    workers: int
    read_threads: int
    """Of each worker."""
    network_gbit_s: float | None = None
    """None: the network is no limit."""
    price_per_hour: Quantity | None = None


@dataclass(frozen=True)
class Part:
    """One kind of work on the mean slide."""

    name: str
    seconds: float
    """On one core, or on one GPU."""
    on_gpu: bool = False


@dataclass(frozen=True)
class Stage:
    """What one worker does at a time; its parts overlap, so the longest counts."""

    name: str
    seconds: float
    decided_by: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class ArchiveEstimate:
    """The whole archive on so many machines of a kind."""

    workload: Workload
    rates: Rates
    machine: Machine
    machines: int
    stages: tuple[Stage, ...]
    limits: Mapping[str, float]
    """Seconds a slide that each resource of one machine allows; the largest is what a slide takes."""
    bottleneck: str

    @property
    def seconds_per_slide(self) -> float:
        """Of one machine."""
        return max(self.limits.values())

    @property
    def slides_per_hour(self) -> float:
        """Of all machines together."""
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
        """GPUs that are paid for, busy or not."""
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
        """How many such machines finish within so many days."""
        return max(1, ceil(self.machine_hours / (24 * days) - 1e-9))


CORES, GPU, NETWORK, WORKERS = "cores", "GPU", "network", "workers in turn"


def estimate(workload: Workload, rates: Rates, machine: Machine, *, machines: int = 1) -> ArchiveEstimate:
    """What the workload takes on `machines` such machines.

    Raises:
        ValueError: a rate or a machine that is nothing, or no slide.
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
    looking = Part("detector", _seconds(megapixels, rates.detector_mp_per_s), gpu)
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
        _stage("detect", [(reading, machine.read_threads), ([looking], 1)]),
        _stage("merge", [([merging], 1)]),
        _stage(
            "crops",
            [([*cutting, *measuring, *encoding], machine.read_threads), (embedding, 1)]
            if cutting
            # A run tells what was left beside embedding, by all threads together.
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
    """lanes: parts that follow one another, shared by so many threads; lanes run side by side."""
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
    """The resource that decides, and what it is mostly busy with."""
    resource = max(limits, key=lambda name: limits[name])
    if resource == NETWORK:
        return "network (bytes of slides)"
    if resource == WORKERS:
        stage = max(stages, key=lambda one: one.seconds)
        return f"workers in turn (mostly {stage.decided_by})"
    busy = [part for stage in stages for part in stage.parts if part.on_gpu == (resource == GPU)]
    return f"{resource} (mostly {max(busy, key=lambda part: part.seconds).name})"
