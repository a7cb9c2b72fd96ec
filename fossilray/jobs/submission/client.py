"""A cluster's job server: jobs submitted, looked at, followed and stopped, through Ray's own client."""

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

LOOK_EVERY_S = 1.0
"""How often a job that is waited for is looked at."""
DOUBT_AFTER_S = 15.0
"""A log that is silent for so long may have lost its connection, so the job itself is asked."""
PATIENCE_S = 300.0
"""How long a job server may be silent before following its log ends; the job does not mind."""
ADDRESS_VARIABLES = (
    ray_constants.RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE,
    ray_constants.RAY_ADDRESS_ENVIRONMENT_VARIABLE,
)
STOPPED = "STOPPED"
OVER = (STOPPED, "SUCCEEDED", "FAILED")


@dataclass(frozen=True)
class Job:
    """What a job server knows of a job; empty texts where it was not submitted by fossilray."""

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
        """The driver's own; 3 where it was stopped, as `fossilray process` has it; 1 where it never ran."""
        if self.status == STOPPED:
            return 3
        return self.driver_exit_code if self.driver_exit_code is not None else int(self.status == "FAILED")


class JobClient:
    """The job server of one cluster."""

    def __init__(self, address: str) -> None:
        """Connect. address: http(s)://host:8265 of the dashboard, or what `ray.init` takes on the cluster itself.

        Raises:
            SubmissionError: nobody answers there, or wants a token.
        """
        self.address = address
        # It tells of every connection that ends.
        logging.getLogger(JobSubmissionClient.__module__).setLevel(logging.WARNING)
        # Ray would let its variables win over an address that was asked for.
        hidden = {name: os.environ.pop(name) for name in ADDRESS_VARIABLES if name in os.environ}
        try:
            with self._told("be reached"):
                self._client = JobSubmissionClient(address)
        finally:
            os.environ.update(hidden)

    def submit(self, request: JobRequest) -> str:
        """The new job's name; the command resumes what earlier jobs of the same run have left.

        Raises:
            UsageError: a job is at work on that run already.
            SubmissionError: the server refuses.
        """
        earlier = [job for job in self.jobs() if job.run == request.run]
        _refuse_second(earlier)
        # Numbered, not random: of two submissions at the same time Ray takes one, as their names are equal.
        name = _next_name(request.run, earlier)
        with tempfile.TemporaryDirectory(prefix="fossilray-") as folder, self._told("take the job"):
            environment = dict(request.environment)
            if request.carried is not None:
                shutil.copy(request.carried, folder)
                environment["working_dir"] = folder
            try:
                return self._client.submit_job(
                    entrypoint=request.entrypoint,
                    submission_id=name,
                    runtime_env=environment,
                    metadata=dict(request.metadata),
                    entrypoint_num_cpus=request.driver.cpus,
                    entrypoint_memory=request.driver.memory_bytes,
                    entrypoint_resources=request.driver.placed or None,
                )
            except RuntimeError:
                _refuse_second([job for job in self.jobs() if job.name == name])
                raise

    def jobs(self) -> list[Job]:
        """Every job that was ever submitted to this cluster, oldest first."""
        with self._told("list its jobs"):
            listed = [_job(found) for found in self._client.list_jobs() if found.submission_id]
        return sorted(listed, key=lambda job: (job.begun_at or datetime.max.replace(tzinfo=UTC), job.name))

    def find(self, name: str) -> Job:
        """The job of that name, or the latest one on the run of that address.

        Raises:
            UsageError: there is none.
        """
        found = [job for job in self.jobs() if name == job.name or (job.run and name.rstrip("/") == job.run)]
        if not found:
            raise UsageError(
                f"{self.address} knows no job {name}; `fossilray job list` names all, and a cluster that was started "
                "anew has forgotten those of the one before"
            )
        return found[-1]

    def logs(self, name: str) -> str:
        """All that the job has written so far."""
        with self._told("show the log"):
            return self._client.get_job_logs(name)

    def follow(self, name: str, say: Callable[[str], None]) -> Job:
        """The job once it is over; until then `say` gets what it writes, from the beginning, as it comes.

        A connection that breaks is made anew, and nothing is said twice.

        Raises:
            SubmissionError: the server was silent for minutes; the job goes on without us.
        """
        return asyncio.run(self._follow(name, _Log(self._client, name, say)))

    def stop(self, name: str) -> bool:
        """Ask a job to end what is in flight and stop; False if it was over. It is killed when that takes too long."""
        with self._told("stop the job"):
            return self._client.stop_job(name)

    def wait(self, name: str) -> Job:
        """The job once it is over."""
        while not (job := self.find(name)).is_over:
            time.sleep(LOOK_EVERY_S)
        return job

    async def _follow(self, name: str, log: _Log) -> Job:
        answered_s = time.monotonic()
        while True:
            reading = asyncio.create_task(log.read_on())
            while not (await asyncio.wait({reading}, timeout=DOUBT_AFTER_S))[0]:
                if await asyncio.to_thread(self._is_over_or_silent, name):
                    # What was written last may still be on its way.
                    await asyncio.wait({reading}, timeout=DOUBT_AFTER_S)
                    break
            reading.cancel()
            await asyncio.wait({reading})
            try:
                job = await asyncio.to_thread(self.find, name)
            except SubmissionError:
                if time.monotonic() - answered_s > PATIENCE_S:
                    raise
            else:
                answered_s = time.monotonic()
                if job.is_over:
                    return job
            await asyncio.sleep(LOOK_EVERY_S)

    def _is_over_or_silent(self, name: str) -> bool:
        try:
            return self.find(name).is_over
        except SubmissionError:
            return True

    @contextlib.contextmanager
    def _told(self, act: str) -> Iterator[None]:
        """Ray's faults as one sentence."""
        try:
            yield
        except AuthenticationError as error:
            raise SubmissionError(
                f"the cluster at {self.address} wants a token: {first_sentence(error)}; set RAY_AUTH_MODE=token, "
                "and put "
                "the cluster's token into RAY_AUTH_TOKEN or ~/.ray/auth_token (a cluster of your own asks for none if "
                "it is started with RAY_AUTH_MODE=disabled)"
            ) from None
        except (RuntimeError, OSError, RayError, ValueError) as error:
            raise SubmissionError(
                f"the cluster at {self.address} cannot {act}: {first_sentence(error)}; is it running "
                "with its dashboard "
                "(`fossilray[cluster]`), and is the tunnel open?"
            ) from None


class _Log:
    """A job's log, read on from where it was left; the server begins each time at the beginning."""

    def __init__(self, client: JobSubmissionClient, name: str, say: Callable[[str], None]) -> None:
        self._client, self._name, self._say = client, name, say
        self._said = 0

    async def read_on(self) -> None:
        """Say what is new until the log ends or the connection breaks."""
        position = 0
        with contextlib.suppress(RuntimeError, OSError, aiohttp.ClientError):
            async for chunk in self._client.tail_job_logs(self._name):
                fresh = chunk[max(0, self._said - position) :]
                position += len(chunk)
                if fresh:
                    self._said = position
                    self._say(fresh)


def _refuse_second(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if not job.is_over:
            raise UsageError(
                f"{job.name} is already at work on {job.run}; `fossilray job logs {job.name} --follow` shows it, "
                f"`fossilray job stop {job.name}` ends it, and the same command then goes on"
            )


def _next_name(run: str, earlier: Sequence[Job]) -> str:
    readable = re.sub(r"[^A-Za-z0-9]+", "-", run.rpartition("://")[2]).strip("-")[-40:].strip("-")
    prefix = f"fossilray-{readable}-{hashlib.sha256(run.encode()).hexdigest()[:8]}"
    numbers = [re.fullmatch(rf"{re.escape(prefix)}-(\d+)", job.name) for job in earlier]
    return f"{prefix}-{max((int(number[1]) for number in numbers if number), default=0) + 1}"


def _job(found: Any) -> Job:
    metadata = found.metadata or {}
    return Job(
        name=found.submission_id,
        status=str(found.status.value),
        run=metadata.get(RUN, ""),
        slides=metadata.get(SLIDES, ""),
        config_sha256=metadata.get(CONFIG, ""),
        entrypoint=found.entrypoint,
        message=found.message or "",
        begun_at=_moment(found.start_time),
        ended_at=_moment(found.end_time),
        driver_exit_code=found.driver_exit_code,
    )


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
