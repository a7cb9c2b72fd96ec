"""The command that estimates what an archive will take, and the short estimate of a dry run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fossilray.cli.options import SLIDES_HELP, ConfigOption, JsonOption, SetOption, settings
from fossilray.cli.output import err, out, print_line
from fossilray.core.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from fossilray.core.config import RunConfig
    from fossilray.processing.planning.dry_run import RunPlan
    from fossilray.processing.planning.machines import Instance
    from fossilray.processing.planning.model import Rates
    from fossilray.processing.planning.rates import RatesOfRun

CatalogArgument = Annotated[
    str,
    typer.Argument(
        help="Folder, glob, one slide, or a catalog (.csv, .xlsx, .ods, .parquet), local or s3://…."
    ),
]
InstanceOption = Annotated[
    str, typer.Option("--instance", help="Type of machine, e.g. g6.4xlarge; `here` is this machine.")
]
MachinesOption = Annotated[int, typer.Option("--machines", min=1, help="Number of such machines.")]
EstimatedSlidesOption = Annotated[
    int | None,
    typer.Option("--slides", min=1, help=SLIDES_HELP, show_default="those of the catalog"),
]
DaysOption = Annotated[
    float | None,
    typer.Option("--days", min=0.01, help="Deadline in days: print how many machines meet it."),
]
PriceOption = Annotated[
    float | None,
    typer.Option(
        "--price", min=0, help="Price of a machine per hour; default: that of the table, which is dated."
    ),
]
RatesOption = Annotated[
    Path | None,
    typer.Option("--rates", help="YAML file of known rates, e.g. embedded_objects_per_s of the GPU."),
]
GpuFactorOption = Annotated[
    float | None,
    typer.Option(
        "--gpu-factor", min=0.01, help="Assumed speed of a GPU, as a multiple of one core of this machine."
    ),
]
FromRunOption = Annotated[
    str | None,
    typer.Option("--from-run", help="Run to take rates and object statistics from, made on such machines."),
]
InstancesOption = Annotated[
    Path | None,
    typer.Option("--instances", help="File with a table of machines to use instead of the built-in one."),
]


def estimate_archive(
    catalog: CatalogArgument,
    instance: InstanceOption = "here",
    machines: MachinesOption = 1,
    slides: EstimatedSlidesOption = None,
    days: DaysOption = None,
    price: PriceOption = None,
    rates: RatesOption = None,
    gpu_factor: GpuFactorOption = None,
    from_run: FromRunOption = None,
    instances: InstancesOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Estimate slides per hour, GPU-hours, cost, storage and days for an archive, each term with its source."""
    from fossilray.processing.planning import machines as profiles
    from fossilray.processing.planning import model
    from fossilray.processing.planning.dry_run import crop_bytes
    from fossilray.processing.planning.text import estimate_to_json, render_estimate
    from fossilray.processing.planning.workload import assumed_statistics, workload_of_rows
    from fossilray.slides.catalog import find_slides

    chosen = settings(config, set_)
    kind = profiles.find_instance(instance, file=instances)
    machine = profiles.machine_of_instance(kind, chosen, price_per_hour=price, file=instances)
    measured = None if from_run is None else _from_run(from_run, chosen, on_gpu=kind.gpus > 0)
    statistics = measured.statistics if measured else assumed_statistics(crop_bytes(chosen))
    rows = find_slides(
        catalog,
        access=chosen.slides.access or chosen.store,
        name_pattern=chosen.slides.name_pattern,
        unique_scans=chosen.slides.unique_scans,
    ).rows
    workload = workload_of_rows(rows, chosen, statistics, slides=slides)
    speeds = _rates(chosen, kind, measured.rates if measured else None, given=rates, gpu_factor=gpu_factor)
    result = model.estimate(workload, speeds, machine, machines=machines)
    if as_json:
        typer.echo(estimate_to_json(result, within_days=days))
    else:
        out.print(render_estimate(result, within_days=days))


def print_short_estimate(plan: RunPlan, run: str, config: RunConfig) -> None:
    """Print what the rest of a dry run's slides takes on this machine, at the run's own rates if it has some."""
    from fossilray.core.errors import RunNotFound
    from fossilray.processing.planning import machines as profiles
    from fossilray.processing.planning import model
    from fossilray.processing.planning.text import render_short
    from fossilray.processing.planning.workload import assumed_statistics, workload_of_plan

    here = profiles.local_instance()
    try:
        measured = _from_run(run, config, on_gpu=here.gpus > 0)
    except (RunNotFound, UsageError):
        measured = None  # no slide is committed yet: rates are measured
    statistics = measured.statistics if measured else assumed_statistics(plan.crop_bytes)
    workload = workload_of_plan(plan, statistics)
    if workload is None:
        return
    rates = _rates(config, here, measured.rates if measured else None)
    out.print(render_short(model.estimate(workload, rates, profiles.machine_of_instance(here, config))))
    source = "measured in this run" if measured else "measured on this machine just now"
    print_line(f"rates {source}; `fossilray estimate` shows every term, and other machines")


def _from_run(run: str, config: RunConfig, *, on_gpu: bool) -> RatesOfRun:
    from fossilray.processing.planning.rates import rates_of_run
    from fossilray.store import open_run

    return rates_of_run(open_run(run, config.store), on_gpu=on_gpu)


def _rates(
    config: RunConfig,
    kind: Instance,
    measured: Rates | None,
    *,
    given: Path | None = None,
    gpu_factor: float | None = None,
) -> Rates:
    """Return the rates of a type of machine: a run's or measured here, then those of --rates or --gpu-factor."""
    from fossilray.processing.planning.machines import local_instance
    from fossilray.processing.planning.measure import measure_rates
    from fossilray.processing.planning.rates import override_rates, scale_to_gpu

    wants_gpu = kind.gpus > 0
    has_gpu = measured.on_gpu if measured else local_instance().gpus > 0
    assumes_gpu = gpu_factor is not None and wants_gpu and not has_gpu
    if given is not None and gpu_factor is not None:
        raise ConfigError("--rates and --gpu-factor both give the speed of a GPU; leave one of them out")
    if given is None and wants_gpu != has_gpu and not assumes_gpu:
        raise ConfigError(
            f"the rates of a GPU of {kind.name} cannot be measured on this machine, which has none; give them with "
            "--rates, or assume them with --gpu-factor"
            if wants_gpu
            else f"{kind.name} has no GPU, and this machine would run the networks on one; give the rates of a core "
            "with --rates"
        )
    if measured is None:
        err.print("measuring this machine, which takes some seconds", style="dim")
        measured = measure_rates(config)
    if given is not None:
        return override_rates(measured, given, on_gpu=wants_gpu)
    return scale_to_gpu(measured, gpu_factor) if assumes_gpu and gpu_factor else measured
