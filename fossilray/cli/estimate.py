"""Commands that say beforehand what a job will take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fossilray.cli.options import ConfigOption, SetOption, err, out, settings
from fossilray.core.errors import ConfigError

if TYPE_CHECKING:
    from fossilray.core.config import RunConfig
    from fossilray.processing.planning.dry_run import RunPlan
    from fossilray.processing.planning.machines import Instance
    from fossilray.processing.planning.model import Rates
    from fossilray.processing.planning.rates import RatesOfRun


def estimate(
    catalog: Annotated[
        str, typer.Argument(help="Catalog (.csv, .parquet), folder, glob or one slide, on a disk or s3://….")
    ],
    instance: Annotated[
        str, typer.Option(help="Kind of machine, e.g. g6.4xlarge; `here` is this one.")
    ] = "here",
    machines: Annotated[int, typer.Option(min=1, help="How many such machines.")] = 1,
    slides: Annotated[
        int | None, typer.Option(min=1, help="Reckon for so many slides like those of the catalog.")
    ] = None,
    days: Annotated[
        float | None, typer.Option(min=0.01, help="Also say how many machines finish within so many days.")
    ] = None,
    price: Annotated[
        float | None, typer.Option(min=0, help="What a machine costs an hour; the table's prices are old.")
    ] = None,
    rates: Annotated[
        Path | None,
        typer.Option(help="YAML with rates that you state, e.g. embedded_objects_per_s of the GPU."),
    ] = None,
    gpu_factor: Annotated[
        float | None,
        typer.Option(min=0.01, help="Assume that a GPU does what so many cores of this machine do."),
    ] = None,
    from_run: Annotated[
        str | None, typer.Option(help="Take rates and habits of slides from a run, made on such machines.")
    ] = None,
    instances: Annotated[
        Path | None, typer.Option(help="Your own table of machines, instead of the one that comes along.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Slides an hour, GPU-hours, money, storage and days for an archive, every term with where it comes from."""
    from fossilray.processing.planning import machines as profiles
    from fossilray.processing.planning import model
    from fossilray.processing.planning.dry_run import crop_bytes
    from fossilray.processing.planning.text import estimate_to_json, render_estimate
    from fossilray.processing.planning.workload import assumed_statistics, workload_of_rows
    from fossilray.slides.catalog import find_slides

    chosen = settings(config, set_)
    kind = profiles.find_instance(instance, file=instances)
    machine = profiles.machine_of_instance(kind, chosen, price_per_hour=price, file=instances)
    told = None if from_run is None else _from_run(from_run, chosen, on_gpu=kind.gpus > 0)
    habits = told.habits if told else assumed_statistics(crop_bytes(chosen))
    rows = find_slides(
        catalog, access=chosen.slides.access or chosen.store, name_pattern=chosen.slides.name_pattern
    ).rows
    workload = workload_of_rows(rows, chosen, habits, slides=slides)
    measured = told.rates if told else None
    speeds = _rates(chosen, kind, measured, stated=rates, gpu_factor=gpu_factor)
    answer = model.estimate(workload, speeds, machine, machines=machines)
    if as_json:
        typer.echo(estimate_to_json(answer, within_days=days))
    else:
        out.print(render_estimate(answer, within_days=days))


def print_short_estimate(plan: RunPlan, run: str, config: RunConfig) -> None:
    """What the rest of a dry run's slides takes on this machine, at the run's own rates if it has some."""
    from fossilray.core.errors import RunNotFound, UsageError
    from fossilray.processing.planning import machines as profiles
    from fossilray.processing.planning import model
    from fossilray.processing.planning.text import render_short
    from fossilray.processing.planning.workload import assumed_statistics, workload_of_plan

    here = profiles.this_machine()
    try:
        told = _from_run(run, config, on_gpu=here.gpus > 0)
    except (RunNotFound, UsageError):
        told = None  # nothing is committed yet: rates are measured
    habits = told.habits if told else assumed_statistics(plan.crop_bytes)
    workload = workload_of_plan(plan, habits)
    if workload is None:
        return
    rates = _rates(config, here, told.rates if told else None)
    out.print(render_short(model.estimate(workload, rates, profiles.machine_of_instance(here, config))))
    where = "measured in this run" if told else "measured here just now"
    out.print(f"rates {where}; `fossilray estimate` shows every term, and other machines")


def _from_run(run: str, config: RunConfig, *, on_gpu: bool) -> RatesOfRun:
    from fossilray.processing.planning.rates import rates_of_run
    from fossilray.store import open_run

    return rates_of_run(open_run(run, config.store), on_gpu=on_gpu)


def _rates(
    config: RunConfig,
    kind: Instance,
    measured: Rates | None,
    *,
    stated: Path | None = None,
    gpu_factor: float | None = None,
) -> Rates:
    """The rates for that kind of machine: a run's or measured here, then what the user states or assumes."""
    from fossilray.processing.planning.machines import this_machine
    from fossilray.processing.planning.measure import measure_rates
    from fossilray.processing.planning.rates import override_rates, scale_to_gpu

    wants_gpu = kind.gpus > 0
    has_gpu = measured.on_gpu if measured else this_machine().gpus > 0
    assumes_gpu = gpu_factor is not None and wants_gpu and not has_gpu
    if stated is not None and gpu_factor is not None:
        raise ConfigError("--rates and --gpu-factor both say what a GPU does; give one of them")
    if stated is None and wants_gpu != has_gpu and not assumes_gpu:
        raise ConfigError(
            f"what a GPU of {kind.name} does cannot be measured on this machine without one; state it with --rates, or "
            "assume it with --gpu-factor"
            if wants_gpu
            else f"{kind.name} has no GPU, and the networks would be measured on one here; state what a core does with "
            "--rates"
        )
    if measured is None:
        err.print("measuring this machine, some seconds", style="dim")
        measured = measure_rates(config)
    if stated is not None:
        return override_rates(measured, stated, on_gpu=wants_gpu)
    return scale_to_gpu(measured, gpu_factor) if assumes_gpu and gpu_factor else measured
