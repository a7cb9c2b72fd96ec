"""A job request for a cluster: the command, its settings and its uploads; needs no cluster."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from fossilray.core.config import RunConfig
from fossilray.core.errors import ConfigError, StoreError
from fossilray.core.version import __version__
from fossilray.store.config_file import read_config
from fossilray.store.files.base import is_remote, local_path
from fossilray.store.files.open import open_files

RUN, SLIDES, CONFIG, VERSION = (f"fossilray_{name}" for name in ("run", "slides", "config_sha256", "version"))
"""Keys of a job's metadata, which Ray's dashboard and `ray job list` show."""
DRAIN_VARIABLE = "RAY_JOB_STOP_WAIT_TIME_S"
"""Time that Ray gives a job to stop before it kills it; 3 s unless the job's environment sets more."""
HEAD = "node:__internal_head__"
"""Resource that only the head has, 1.0 of it."""
FAIL_FAST_SETTINGS = ("store.tries=2", "store.timeout_s=10")
"""Settings for reading the configuration before submission: a store that does not reply is not waited for."""


@dataclass(frozen=True)
class Runtime:
    """Environment of the command: its code, its interpreter, and the time it has to stop."""

    working_dir: str | None = None
    """Folder whose code the job runs instead of the installed one; uploaded, unless it is a URL."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Ray's `runtime_env`: pip, env_vars, excludes, …"""
    python: str = "python"
    drain_minutes: float = 10.0
    """Time for slides in flight when the job is stopped, before it is killed."""


@dataclass(frozen=True)
class DriverNeeds:
    """Resources that the driver reserves; none by default, so that it fits on a head without CPUs."""

    cpus: float | None = None
    memory_bytes: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict)

    @property
    def placement(self) -> dict[str, float]:
        """Custom resources of the driver; one that reserves CPUs or memory stays on the head: other nodes may go."""
        if self.resources or (self.cpus is None and self.memory_bytes is None):
            return dict(self.resources)
        return {HEAD: 0.001}


@dataclass(frozen=True)
class JobRequest:
    """One submission."""

    run: str
    entrypoint: str
    metadata: Mapping[str, str]
    environment: Mapping[str, Any]
    driver: DriverNeeds = field(default_factory=DriverNeeds)
    config_file: Path | None = None
    """A configuration on this machine, uploaded as the job's working directory."""
    note: str | None = None
    """A warning to show before the job is submitted."""


def plan_job(
    slides: str | None,
    run: str | None,
    *,
    config: str | None = None,
    assignments: Sequence[str] = (),
    options: Sequence[str] = (),
    runtime: Runtime | None = None,
    driver: DriverNeeds | None = None,
) -> JobRequest:
    """Return the request to run `fossilray process` with these settings on a cluster.

    config: a YAML file on this machine, which is uploaded, or in an object store, which the job reads with the
    cluster's credentials. options: further options of `process`.

    Raises:
        ConfigError: a setting is wrong, or names a path that only this machine has.
    """
    runtime, driver = runtime or Runtime(), driver or DriverNeeds()
    known, note = _try_read_config(config, assignments)
    run = _require_shared("the run directory", "--run", run or (known.store.run if known else None))
    source = slides or (known.slides.source if known else None)
    if source is not None or known is not None:
        source = _require_shared("the slides", "SLIDES", source)
    if known is not None:
        open_files(
            run, known.store
        )  # refuses unknown protocols and URLs with credentials; opens no connection
    config_name, config_file = _config_on_cluster(config, runtime)
    words = [runtime.python, "-m", "fossilray", "process", *([slides] if slides else []), "--run", run]
    words += ["--config", config_name] if config_name else []
    for assignment in assignments:
        words += ["--set", assignment]
    metadata = {RUN: run, SLIDES: source or "", CONFIG: _digest(known) if known else "", VERSION: __version__}
    return JobRequest(
        run=run,
        entrypoint=shlex.join([*words, *options, "--address", "auto"]),
        metadata={key: value for key, value in metadata.items() if value},
        environment=_environment(runtime),
        driver=driver,
        config_file=config_file,
        note=note,
    )


def _try_read_config(config: str | None, assignments: Sequence[str]) -> tuple[RunConfig | None, str | None]:
    """Read the configuration; None and a note where it cannot be read here and the cluster may be able to."""
    try:
        return read_config(config, assignments, access=FAIL_FAST_SETTINGS), None
    except StoreError as error:
        if config is None or not is_remote(config):
            raise
        return None, f"the configuration was not checked before the job starts: {error}"


def _require_shared(what: str, option: str, path: str | None) -> str:
    """Return a path or URL that is the same on every machine of the cluster; refuse others."""
    if path is None:
        raise ConfigError(f"nothing names {what}; give {option}, or set it in the configuration")
    if not is_remote(path) and not Path(local_path(path)).is_absolute():
        raise ConfigError(
            f"{what} {path} is relative to this machine's folder; name an absolute path that every node sees, "
            "or a URL such as s3://bucket/folder"
        )
    return path.rstrip("/") or path


def _config_on_cluster(config: str | None, runtime: Runtime) -> tuple[str | None, Path | None]:
    """Return the configuration's name for the job, and the file to upload for it."""
    if config is None or is_remote(config):
        return config, None
    path = Path(local_path(config))
    folder = runtime.working_dir or runtime.environment.get("working_dir")
    if folder is None:
        return path.name, path
    within = None if is_remote(folder) else _within(path, Path(folder))
    if within is None:
        raise ConfigError(
            f"the configuration {config} is not in the working directory {folder}, so it would not reach the "
            "cluster; put it there, or into an object store"
        )
    return str(within), None


def _within(path: Path, folder: Path) -> PurePosixPath | None:
    inner, outer = path.resolve(), folder.resolve()
    return PurePosixPath(inner.relative_to(outer)) if inner.is_relative_to(outer) else None


def _environment(runtime: Runtime) -> dict[str, Any]:
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",
        DRAIN_VARIABLE: str(max(1, round(60 * runtime.drain_minutes))),
        **(runtime.environment.get("env_vars") or {}),
    }
    environment = {**runtime.environment, "env_vars": variables}
    if runtime.working_dir is not None:
        environment["working_dir"] = runtime.working_dir
    return environment


def _digest(config: RunConfig) -> str:
    """sha256 of the whole configuration, defaults and assignments included."""
    plain = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()
