"""Commands that hand the slide job to a running cluster, and look after it there."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fossilray.cli.options import ConfigOption, SetOption, SingleWriterOption, err, out
from fossilray.core.errors import ConfigError
from fossilray.core.text import strip_control_characters
from fossilray.core.text_table import Column, TextTable

if TYPE_CHECKING:
    from fossilray.jobs.submission import Job, JobClient

AddressOption = Annotated[
    str,
    typer.Option(
        envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
        show_envvar=True,
        help="The cluster's job server: the address of its dashboard, or `auto` on the cluster itself.",
    ),
]
JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="A job's name, or the address of a run for the latest job on it.")
]
HERE = "http://127.0.0.1:8265"


def submit(
    slides: Annotated[
        str | None,
        typer.Argument(
            help="Folder, glob, one slide, or a catalog, where every node sees it; default: slides.source."
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run", help="Run directory: s3://…, or a path that every node sees; default: store.run."
        ),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    workers: Annotated[
        int | None, typer.Option(help="Workers; default: as many as the cluster holds.")
    ] = None,
    single_writer: SingleWriterOption = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="The job fails with 4 when any slide failed.")
    ] = False,
    address: AddressOption = HERE,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow/--no-follow", help="Show the job's log and end as it ends; or return at once."
        ),
    ] = True,
    working_dir: Annotated[
        str | None,
        typer.Option(
            "--working-dir",
            help="Folder whose fossilray the job runs instead of the installed one; uploaded without what its "
            ".rayignore and .gitignore name.",
        ),
    ] = None,
    runtime_env: Annotated[
        Path | None,
        typer.Option("--runtime-env", help="YAML file with Ray's runtime environment (pip, env_vars, …)."),
    ] = None,
    drain_minutes: Annotated[
        float,
        typer.Option(
            "--drain-minutes",
            min=0.1,
            help="How long slides in flight may take to end when the job is stopped; then it is killed.",
        ),
    ] = 10.0,
    entrypoint_num_cpus: Annotated[
        float | None,
        typer.Option("--entrypoint-num-cpus", min=0, help="CPUs that the driver reserves; default: none."),
    ] = None,
    entrypoint_memory: Annotated[
        int | None,
        typer.Option("--entrypoint-memory", min=0, help="Bytes of memory that the driver reserves."),
    ] = None,
    entrypoint_resources: Annotated[
        str | None,
        typer.Option(
            "--entrypoint-resources",
            help='Custom resources that the driver reserves, as JSON, e.g. {"head": 1}; unset: it runs on the head.',
        ),
    ] = None,
    python: Annotated[
        str, typer.Option(help="The interpreter on the cluster that has fossilray.")
    ] = "python",
) -> None:
    """Run `fossilray process` as a job of a running Ray cluster; the same command resumes once a job has ended."""
    from fossilray.jobs.submission import DriverNeeds, JobClient, Runtime, plan_job

    request = plan_job(
        slides,
        run,
        config=config,
        assignments=[*(set_ or []), *([] if workers is None else [f"workers.count={workers}"])],
        options=[
            *(["--single-writer"] if single_writer else []),
            *(["--strict"] if strict else []),
        ],
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
        err.print(request.note, markup=False, highlight=False, soft_wrap=True)
    server = JobClient(address)
    name = server.submit(request)
    _say(f"submitted {name} -> {request.run}")
    if not follow:
        _say(f"fossilray job logs {name} --follow --address {address}")
        return
    raise typer.Exit(_follow(server, name))


def list_jobs(address: AddressOption = HERE) -> None:
    """List every job that was submitted to the cluster since it was started, oldest first."""
    from fossilray.jobs.submission import JobClient

    jobs = JobClient(address).jobs()
    if not jobs:
        _say(f"no job was submitted to {address} yet")
        return
    table = TextTable("job", "status", Column("exit", is_number=True), "begun", "ended", "run")
    for job in jobs:
        code = "" if job.driver_exit_code is None else str(job.driver_exit_code)
        table.add_row(
            *(job.name, job.status, code),
            *(_clock(moment) for moment in (job.begun_at, job.ended_at)),
            job.run,
        )
    out.print(table)


def status(
    job: JobArgument,
    address: AddressOption = HERE,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """How a job fares on its cluster; how far its run is, `fossilray status RUN` knows."""
    from fossilray.jobs.submission import JobClient

    found = JobClient(address).find(job)
    facts = {
        "job": found.name,
        "status": found.status,
        "exit_code": found.exit_code if found.is_over else None,
        "run": found.run,
        "slides": found.slides,
        "config_sha256": found.config_sha256,
        "begun_at": _clock(found.begun_at),
        "ended_at": _clock(found.ended_at),
        "command": found.entrypoint,
    }
    if as_json:
        out.print(json.dumps(facts), markup=False, highlight=False, soft_wrap=True)
        return
    for name, fact in facts.items():
        if fact not in (None, ""):
            _say(f"{name:<14}{fact}")


def logs(
    job: JobArgument,
    address: AddressOption = HERE,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the job ends, and end with its exit code.")
    ] = False,
) -> None:
    """Show what a job has written."""
    from fossilray.jobs.submission import JobClient

    server = JobClient(address)
    name = server.find(job).name
    if follow:
        raise typer.Exit(_follow(server, name))
    _pass_on(server.logs(name))


def stop(
    job: JobArgument,
    address: AddressOption = HERE,
    wait: Annotated[
        bool,
        typer.Option("--wait/--no-wait", help="Wait until slides in flight have ended; or return at once."),
    ] = True,
) -> None:
    """Ask a job to end the slides in flight and stop; what it committed stays, the same submission goes on."""
    from fossilray.jobs.submission import JobClient

    server = JobClient(address)
    name = server.find(job).name
    if not server.stop(name):
        _say(f"{name} was over already")
        return
    _say(f"asked {name} to stop; slides in flight end first")
    if wait:
        _say(f"{name}: {server.wait(name).status}")


def _follow(server: JobClient, name: str) -> int:
    """Pass the log on until the job ends; its exit code."""
    try:
        job = server.follow(name, _pass_on)
    except KeyboardInterrupt:
        err.print(f"the job goes on; `fossilray job stop {name}` ends it", highlight=False, soft_wrap=True)
        return 130
    _report_end(job)
    return job.exit_code


def _report_end(job: Job) -> None:
    if job.status == "FAILED" and job.driver_exit_code is None:
        # Without a driver there is no log that says why.
        err.print(strip_control_characters(job.message), markup=False, highlight=False, soft_wrap=True)
    _say(f"{job.name}: {job.status}, exit code {job.exit_code}")


def _pass_on(text: str) -> None:
    """A log as it stands, but for what could move a terminal's cursor."""
    out.file.write("\n".join(strip_control_characters(line) for line in text.split("\n")))
    out.file.flush()


def _say(line: str) -> None:
    out.print(strip_control_characters(line), markup=False, highlight=False, soft_wrap=True)


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
    found = parse_yaml(text, FileRole(str(path), "the runtime environment", "check the file", ConfigError))
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds no runtime environment; it should hold keys such as pip or env_vars")
    return found


def _parse_resources(text: str | None) -> dict[str, float]:
    try:
        found = json.loads(text) if text is not None else {}
        return {str(name): float(amount) for name, amount in found.items()}
    except (ValueError, TypeError, AttributeError):
        raise ConfigError(
            f'--entrypoint-resources {text!r} is not a JSON object of numbers, such as {{"head": 1}}'
        ) from None
