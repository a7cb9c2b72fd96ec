"""Client of a cluster's job server: submit, list, follow and stop jobs, through Ray's own client."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
from ray._private import ray_constants
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobSubmissionClient

from fossilray.core.errors import SubmissionError, UsageError
from fossilray.jobs.submission.request import CONFIG, RUN, SLIDES, JobRequest
from fossilray.store.files.options import first_sentence

POLL_EVERY_S = 1.0
"""Interval at which the status of a job is requested while it is waited for."""
LOG_TIMEOUT_S = 15.0
"""A log without output for this time may have lost its connection, so the job's status is requested."""
SERVER_TIMEOUT_S = 300.0
"""Following a log ends after this time without a reply of the job server; the job itself continues."""
ADDRESS_VARIABLES = (
    ray_constants.RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE,
    ray_constants.RAY_ADDRESS_ENVIRONMENT_VARIABLE,
)
STOPPED = "STOPPED"
OVER = (STOPPED, "SUCCEEDED", "FAILED")


@dataclass(frozen=True)
class Job:
    """A job of the job server; fields of fossilray's own are empty for other jobs."""

    name: str
    """Its submission id."""
    status: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    run: str
    slides: str
    config_sha256: str
    entrypoint: str
    message: str
    begun_at: datetime | None
    ended_at: datetime | None
    driver_exit_code: int | None

    @property
    def is_over(self) -> bool:
        return self.status in OVER

    @property
    def exit_code(self) -> int:
        """Exit code of the driver; 3 for a stopped job, as of `fossilray process`; 1 for a job that never ran."""
        if self.status == STOPPED:
            return 3
        return self.driver_exit_code if self.driver_exit_code is not None else int(self.status == "FAILED")


class JobClient:
    """The job server of one cluster."""

    def __init__(self, address: str) -> None:
        """Connect. address: http(s)://host:8265 of the dashboard, or on the cluster an address for `ray.init`.

        Raises:
            SubmissionError: no server replies there, or it requires a token.
        """
        self.address = address
        # It logs every connection that ends.
        logging.getLogger(JobSubmissionClient.__module__).setLevel(logging.WARNING)
        # Ray would prefer its variables to the given address.
        hidden = {name: os.environ.pop(name) for name in ADDRESS_VARIABLES if name in os.environ}
        try:
            with self._translate_errors("be reached"):
                self._client = JobSubmissionClient(address)
        finally:
            os.environ.update(hidden)

    def submit(self, request: JobRequest) -> str:
        """Submit a job and return its name; it resumes the run where earlier jobs have ended.

        Raises:
            UsageError: another job of that run is not over.
            SubmissionError: the server refuses.
        """
        earlier = [job for job in self.jobs() if job.run == request.run]
        _require_no_active_job(earlier)
        # Numbered, not random: of two simultaneous submissions Ray accepts one, because their names are equal.
        name = _next_name(request.run, earlier)
        with (
            tempfile.TemporaryDirectory(prefix="fossilray-") as folder,
            self._translate_errors("take the job"),
        ):
            environment = dict(request.environment)
            if request.config_file is not None:
                shutil.copy(request.config_file, folder)
                environment["working_dir"] = folder
            try:
                return self._client.submit_job(
                    entrypoint=request.entrypoint,
                    submission_id=name,
                    runtime_env=environment,
                    metadata=dict(request.metadata),
                    entrypoint_num_cpus=request.driver.cpus,
                    entrypoint_memory=request.driver.memory_bytes,
                    entrypoint_resources=request.driver.placement or None,
                )
            except RuntimeError:
                _require_no_active_job([job for job in self.jobs() if job.name == name])
                raise

    def jobs(self) -> list[Job]:
        """Return all jobs that were submitted to this cluster, oldest first."""
        with self._translate_errors("list its jobs"):
            listed = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(listed, key=lambda job: (job.begun_at or datetime.max.replace(tzinfo=UTC), job.name))

    def find(self, name: str) -> Job:
        """The job of that name, or the latest job of the run with that URL.

        Raises:
            UsageError: no job has that name or run.
        """
        matching = [
            job for job in self.jobs() if name == job.name or (job.run and name.rstrip("/") == job.run)
        ]
        if not matching:
            raise UsageError(
                f"{self.address} knows no job {name}; `fossilray job list` names all, and a cluster that was "
                "restarted has forgotten its earlier jobs"
            )
        return matching[-1]

    def logs(self, name: str) -> str:
        """The log of the job so far."""
        with self._translate_errors("show the log"):
            return self._client.get_job_logs(name)

    def follow(self, name: str, write: Callable[[str], None]) -> Job:
        """Pass a job's log to `write` as it grows, from the beginning; return the job once it is over.

        A broken connection is opened again, and no text is passed twice.

        Raises:
            SubmissionError: the server did not reply for minutes; the job itself continues.
        """
        return asyncio.run(self._follow(name, _Log(self._client, name, write)))

    def stop(self, name: str) -> bool:
        """Stop a job after its slides in flight, or kill it when that takes too long; return False if it was over."""
        with self._translate_errors("stop the job"):
            return self._client.stop_job(name)

    def wait(self, name: str) -> Job:
        """Wait until the job is over, and return it."""
        while not (job := self.find(name)).is_over:
            time.sleep(POLL_EVERY_S)
        return job

    async def _follow(self, name: str, log: _Log) -> Job:
        replied_s = time.monotonic()
        while True:
            reading = asyncio.create_task(log.read())
            while not (await asyncio.wait({reading}, timeout=LOG_TIMEOUT_S))[0]:
                if await asyncio.to_thread(self._is_over_or_unreachable, name):
                    # The last lines may not have arrived yet.
                    await asyncio.wait({reading}, timeout=LOG_TIMEOUT_S)
                    break
            reading.cancel()
            await asyncio.wait({reading})
            try:
                job = await asyncio.to_thread(self.find, name)
            except SubmissionError:
                if time.monotonic() - replied_s > SERVER_TIMEOUT_S:
                    raise
            else:
                replied_s = time.monotonic()
                if job.is_over:
                    return job
            await asyncio.sleep(POLL_EVERY_S)

    def _is_over_or_unreachable(self, name: str) -> bool:
        try:
            return self.find(name).is_over
        except SubmissionError:
            return True

    @contextlib.contextmanager
    def _translate_errors(self, act: str) -> Iterator[None]:
        """Raise Ray's errors as a SubmissionError of one sentence. act: the server cannot …"""
        try:
            yield
        except AuthenticationError as error:
            raise SubmissionError(
                f"the cluster at {self.address} requires a token: {first_sentence(error)}; set RAY_AUTH_MODE=token, "
                "and put "
                "the cluster's token into RAY_AUTH_TOKEN or ~/.ray/auth_token (a cluster of your own needs none if "
                "it is started with RAY_AUTH_MODE=disabled)"
            ) from None
        except (RuntimeError, OSError, RayError, ValueError) as error:
            raise SubmissionError(
                f"the cluster at {self.address} cannot {act}: {first_sentence(error)}; is it running "
                "with its dashboard "
                "(`fossilray[cluster]`), and is the tunnel open?"
            ) from None


class _Log:
    """A job's log, read from the position reached before; the server sends it from the beginning each time."""

    def __init__(self, client: JobSubmissionClient, name: str, write: Callable[[str], None]) -> None:
        self._client, self._name, self._write = client, name, write
        self._position = 0

    async def read(self) -> None:
        """Write new text until the log ends or the connection breaks."""
        position = 0
        with contextlib.suppress(RuntimeError, OSError, aiohttp.ClientError):
            async for chunk in self._client.tail_job_logs(self._name):
                fresh = chunk[max(0, self._position - position) :]
                position += len(chunk)
                if fresh:
                    self._position = position
                    self._write(fresh)


def _require_no_active_job(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if not job.is_over:
            raise UsageError(
                f"{job.name} already processes {job.run}; `fossilray job logs {job.name} --follow` shows it, "
                f"`fossilray job stop {job.name}` ends it, and the same command then resumes"
            )


def _next_name(run: str, earlier: Sequence[Job]) -> str:
    readable = re.sub(r"[^A-Za-z0-9]+", "-", run.rpartition("://")[2]).strip("-")[-40:].strip("-")
    prefix = f"fossilray-{readable}-{hashlib.sha256(run.encode()).hexdigest()[:8]}"
    numbers = [re.fullmatch(rf"{re.escape(prefix)}-(\d+)", job.name) for job in earlier]
    return f"{prefix}-{max((int(number[1]) for number in numbers if number), default=0) + 1}"


def _job(details: Any) -> Job:
    metadata = details.metadata or {}
    return Job(
        name=details.submission_id,
        status=str(details.status.value),
        run=metadata.get(RUN, ""),
        slides=metadata.get(SLIDES, ""),
        config_sha256=metadata.get(CONFIG, ""),
        entrypoint=details.entrypoint,
        message=details.message or "",
        begun_at=_utc_time(details.start_time),
        ended_at=_utc_time(details.end_time),
        driver_exit_code=details.driver_exit_code,
    )


def _utc_time(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
