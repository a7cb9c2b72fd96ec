"""Commands that submit the slide job to a running Ray cluster, and look after it there."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fossilray.cli.options import (
    ConfigOption,
    FollowOption,
    JsonOption,
    RunToWriteOption,
    SetOption,
    SingleWriterOption,
    StrictOption,
    WorkersOption,
)
from fossilray.cli.output import out, print_line, warn
from fossilray.core.errors import ConfigError
from fossilray.core.text import strip_control_characters
from fossilray.core.text_table import TextColumn, TextTable

if TYPE_CHECKING:
    from fossilray.jobs.submission import Job, JobClient

HERE = "http://127.0.0.1:8265"

DashboardOption = Annotated[
    str,
    typer.Option(
        "--dashboard",
        envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
        show_envvar=True,
        help="Dashboard of the Ray cluster, whose job server takes jobs: http://…:8265, or `auto` on the cluster.",
    ),
]
JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="Name of a job, or the run directory for its latest job.")
]
SlidesArgument = Annotated[
    str | None,
    typer.Argument(
        help="Folder, glob, one slide, or a catalog, at a path that every node sees; default: slides.source."
    ),
]
WorkingDirOption = Annotated[
    str | None,
    typer.Option(
        "--working-dir",
        help="Folder to upload, whose fossilray the job runs instead of the installed one; .rayignore and .gitignore "
        "apply.",
    ),
]
RuntimeEnvOption = Annotated[
    Path | None,
    typer.Option("--runtime-env", help="YAML file with Ray's runtime environment (pip, env_vars, …)."),
]
DrainOption = Annotated[
    float,
    typer.Option(
        "--drain-minutes",
        min=0.1,
        help="Minutes that slides in progress get to finish when the job is stopped, before it is killed.",
    ),
]
DriverCpusOption = Annotated[
    float | None,
    typer.Option("--entrypoint-num-cpus", min=0, help="CPUs reserved for the driver; default: none."),
]
DriverMemoryOption = Annotated[
    int | None,
    typer.Option(
        "--entrypoint-memory", min=0, help="Bytes of memory reserved for the driver; default: none."
    ),
]
DriverResourcesOption = Annotated[
    str | None,
    typer.Option(
        "--entrypoint-resources",
        help='Custom resources reserved for the driver, as JSON, e.g. {"head": 1}; default: it runs on the head node.',
    ),
]


def submit(
    slides: SlidesArgument = None,
    run: RunToWriteOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    workers: WorkersOption = None,
    single_writer: SingleWriterOption = False,
    strict: StrictOption = False,
    dashboard: DashboardOption = HERE,
    follow: FollowOption = True,
    working_dir: WorkingDirOption = None,
    runtime_env: RuntimeEnvOption = None,
    drain_minutes: DrainOption = 10.0,
    entrypoint_num_cpus: DriverCpusOption = None,
    entrypoint_memory: DriverMemoryOption = None,
    entrypoint_resources: DriverResourcesOption = None,
    python: Annotated[
        str, typer.Option(help="Python interpreter on the cluster that has fossilray installed.")
    ] = "python",
) -> None:
    """Run `fossilray process` as a job of a running Ray cluster; the same command resumes after the job has ended."""
    from fossilray.jobs.submission import DriverNeeds, JobClient, Runtime, plan_job

    flags = {"--single-writer": single_writer, "--strict": strict}
    request = plan_job(
        slides,
        run,
        config=config,
        assignments=[*(set_ or []), *([] if workers is None else [f"workers.count={workers}"])],
        options=[flag for flag, is_set in flags.items() if is_set],
        runtime=Runtime(
            working_dir=working_dir,
            environment=_read_environment(runtime_env),
            python=python,
            drain_minutes=drain_minutes,
        ),
        driver=DriverNeeds(
            cpus=entrypoint_num_cpus,
            memory_bytes=entrypoint_memory,
            resources=_parse_resources(entrypoint_resources),
        ),
    )
    if request.note:
        warn(request.note)
    server = JobClient(dashboard)
    name = server.submit(request)
    print_line(f"submitted {name} -> {request.run}")
    if not follow:
        print_line(f"fossilray job logs {name} --follow --dashboard {dashboard}")
        return
    raise typer.Exit(_follow(server, name))


def list_jobs(dashboard: DashboardOption = HERE) -> None:
    """List the jobs submitted to a cluster since it was started, oldest first."""
    from fossilray.jobs.submission import JobClient

    jobs = JobClient(dashboard).jobs()
    if not jobs:
        print_line(f"no job was submitted to {dashboard} yet")
        return
    table = TextTable("job", "status", TextColumn("exit", is_number=True), "begun", "ended", "run")
    for job in jobs:
        code = "" if job.driver_exit_code is None else str(job.driver_exit_code)
        table.add_row(
            *(job.name, job.status, code),
            *(_clock(moment) for moment in (job.begun_at, job.ended_at)),
            job.run,
        )
    out.print(table)


def job_status(
    job: JobArgument,
    dashboard: DashboardOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Show the status of a job on its cluster; `fossilray status RUN` shows the progress of its run."""
    from fossilray.jobs.submission import JobClient

    entry = JobClient(dashboard).find(job)
    fields = {
        "job": entry.name,
        "status": entry.status,
        "exit_code": entry.exit_code if entry.is_over else None,
        "run": entry.run,
        "slides": entry.slides,
        "config_sha256": entry.config_sha256,
        "begun_at": _clock(entry.begun_at),
        "ended_at": _clock(entry.ended_at),
        "command": entry.entrypoint,
    }
    if as_json:
        print_line(json.dumps(fields))
        return
    for name, value in fields.items():
        if value not in (None, ""):
            print_line(f"{name:<14}{value}")


def logs(
    job: JobArgument,
    dashboard: DashboardOption = HERE,
    follow: FollowOption = False,
) -> None:
    """Show the log of a job."""
    from fossilray.jobs.submission import JobClient

    server = JobClient(dashboard)
    name = server.find(job).name
    if follow:
        raise typer.Exit(_follow(server, name))
    _print_log(server.logs(name))


def stop(
    job: JobArgument,
    dashboard: DashboardOption = HERE,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait/--no-wait", help="Wait until the slides in progress have ended; or return at once."
        ),
    ] = True,
) -> None:
    """Stop a job after the slides in progress; committed slides stay, and the same submission resumes."""
    from fossilray.jobs.submission import JobClient

    server = JobClient(dashboard)
    name = server.find(job).name
    if not server.stop(name):
        print_line(f"{name} had ended already")
        return
    print_line(f"stopping {name} after the slides in progress")
    if wait:
        print_line(f"{name}: {server.wait(name).status}")


def _follow(server: JobClient, name: str) -> int:
    """Print the log until the job ends; return its exit code."""
    try:
        job = server.follow(name, _print_log)
    except KeyboardInterrupt:
        warn(f"the job is still running; `fossilray job stop {name}` stops it")
        return 130
    _report_end(job)
    return job.exit_code


def _report_end(job: Job) -> None:
    if job.status == "FAILED" and job.driver_exit_code is None:
        # Without a driver there is no log with the reason.
        warn(job.message)
    print_line(f"{job.name}: {job.status}, exit code {job.exit_code}")


def _print_log(text: str) -> None:
    """Print a log unchanged, except for control characters that could move a terminal's cursor."""
    out.file.write("\n".join(strip_control_characters(line) for line in text.split("\n")))
    out.file.flush()


def _clock(moment: datetime | None) -> str:
    return "" if moment is None else moment.isoformat(timespec="seconds")


def _read_environment(path: Path | None) -> dict[str, Any]:
    from fossilray.core.formats import FileRole
    from fossilray.core.formats.yaml_text import parse_yaml

    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the runtime environment {path}: {error}; check the file") from None
    environment = parse_yaml(
        text, FileRole(str(path), "the runtime environment", "check the file", ConfigError)
    )
    if not isinstance(environment, dict):
        raise ConfigError(f"{path} holds no runtime environment; it should hold keys such as pip or env_vars")
    return environment


def _parse_resources(text: str | None) -> dict[str, float]:
    try:
        resources = json.loads(text) if text is not None else {}
        return {str(name): float(amount) for name, amount in resources.items()}
    except (ValueError, TypeError, AttributeError):
        raise ConfigError(
            f'--entrypoint-resources {text!r} is not a JSON object of numbers, such as {{"head": 1}}'
        ) from None
