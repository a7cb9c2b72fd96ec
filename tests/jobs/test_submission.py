"""Jobs on a real cluster of this machine: a head without CPUs for work, its job server, and one node."""

# ruff: noqa: F811 (fixtures are imported by the name that tests use)

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from support.cli_runner import invoke
from support.ray_nodes import BIN, RayNodes
from support.remote_slides import put, upload
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)
from support.slides_on_disk import write_slide
from support.waiting import wait_for

from fossilray.core.config import StoreConfig
from fossilray.core.errors import UsageError
from fossilray.jobs.submission import Job, JobClient, Runtime, plan_job
from fossilray.store import RunStore

ROOT = Path(__file__).parents[2]
SLIDES = 14
SETTINGS = """
detector: {kind: classical}
crops: {size_px: 64}
workers: {count: 1, cpus_per_worker: 0.9}
"""


@pytest.fixture(scope="module")
def cluster(s3_endpoint: str) -> Iterator[RayNodes]:
    # As on a cluster whose nodes have a role, no settings hold keys.
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1"}
    with RayNodes(AWS_ENDPOINT_URL=s3_endpoint, **keys) as cluster:
        cluster.add(cpus=1)
        yield cluster


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stopped_job_ends_its_slides_and_a_plain_ray_job_resumes_it(
    cluster: RayNodes, s3_run: tuple[str, StoreConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, access = s3_run
    monkeypatch.setenv("AWS_ENDPOINT_URL", str(access.endpoint_url))
    for number in range(SLIDES):
        write_slide(tmp_path / "slides" / f"{number}.mrxs", objects=4 + number)
    upload(tmp_path / "slides", f"{run}-slides", access)
    settings = f"slides: {{source: {run}-slides}}\nstore: {{run: {run}}}\n{SETTINGS}"
    put(f"{run}.yaml", settings.encode(), access)
    store, server = RunStore.open(run, access), JobClient(cluster.address)

    output = fossilray(cluster, "submit", "--config", f"{run}.yaml", "--no-follow")
    assert "submitted fossilray-" in output
    wait_for(
        lambda: bool(store.committed()),
        240,
        pause_s=0.2,
        lives=lambda: not server.find(run).is_over,
        log=lambda: server.logs(server.find(run).name),
    )
    job = server.find(run)
    assert (job.status, job.slides) == ("RUNNING", f"{run}-slides")
    assert len(job.config_sha256) == 64
    assert driver_node(cluster, job)["raylet"]["isHeadNode"], (
        "a driver on a node that vanishes takes the job along"
    )
    with pytest.raises(UsageError, match=f"{job.name} already processes {run}; .*job stop"):
        server.submit(plan_job(None, None, config=f"{run}.yaml"))

    assert "STOPPED" in fossilray(cluster, "job", "stop", run)
    job = server.find(job.name)
    assert (job.status, job.exit_code) == ("STOPPED", 3)
    assert "stopped early; run the same command again to resume" in fossilray(
        cluster, "job", "logs", job.name
    )
    assert 0 < len(store.committed()) < SLIDES, "the job was too quick to be stopped"
    assert not store.attempts.running(), "what was begun was ended"

    before = len(store.committed())
    completed = subprocess.run(
        [
            *(BIN / "ray", "job", "submit", "--address", cluster.address, "--working-dir", "."),
            *("--runtime-env-json", json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "600"}})),
            *("--", "python", "pipelines/process_slides.py", "--config", f"{run}.yaml"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert f"{SLIDES} of {SLIDES} slides committed ({before} before)" in completed.stdout
    counts = {summary.slide_id: summary.objects for summary in store.summaries()}
    assert len(counts) == SLIDES
    assert all(counts.values())


@pytest.mark.slow
def test_a_job_that_fails_ends_the_command_as_it_would_have_ended_here(
    cluster: RayNodes, tmp_path: Path
) -> None:
    (tmp_path / "no-slides").mkdir()
    config = tmp_path / "local.yaml"
    config.write_text(f"slides: {{source: {tmp_path}/no-slides}}\nstore: {{run: {tmp_path}/run}}\n")
    output = fossilray(cluster, "submit", "--config", str(config), expected=2)
    assert f"no slides below {tmp_path}/no-slides" in output, "the configuration here reached the job there"
    assert "-1: FAILED, exit code 2" in output
    found = json.loads(fossilray(cluster, "job", "status", f"{tmp_path}/run", "--json"))
    assert (found["status"], found["exit_code"], found["run"]) == ("FAILED", 2, f"{tmp_path}/run")

    # What has ended may be submitted again, under the next name.
    server = JobClient(cluster.address)
    unstartable = plan_job(None, None, config=str(config), runtime=Runtime(python="no-such-python"))
    again = server.follow(server.submit(unstartable), lambda _: None)
    assert (again.name, again.exit_code) == (found["job"][:-1] + "2", 127)
    listed = [job.name for job in server.jobs() if job.run == f"{tmp_path}/run"]
    assert listed == [found["job"], again.name]
    assert "FAILED" in fossilray(cluster, "job", "list")
    assert "was over already" in fossilray(cluster, "job", "stop", again.name)
    with pytest.raises(UsageError, match="knows no job elsewhere"):
        server.find("elsewhere")


@pytest.mark.slow
def test_a_cluster_with_a_token_accepts_only_clients_that_have_it(tmp_path: Path) -> None:
    token, other = "0123456789abcdef" * 2, "fedcba9876543210" * 2
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # A token of the user who runs the tests must not help.
    clean["HOME"] = str(tmp_path)
    with RayNodes(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token) as cluster:
        for variables, status, expected_text in (
            ({}, 1, "requires a token"),
            ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": other}, 1, "Invalid authentication token"),
            ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}, 0, "no job was submitted"),
        ):
            # Ray reads its mode once in a process.
            completed = subprocess.run(
                [sys.executable, "-m", "fossilray", "job", "list", "--dashboard", cluster.address],
                cwd=ROOT,
                env=clean | variables,
                capture_output=True,
                text=True,
                check=False,
            )
            assert (completed.returncode, expected_text in completed.stdout + completed.stderr) == (
                status,
                True,
            ), completed


def fossilray(cluster: RayNodes, *words: str, expected: int = 0) -> str:
    completed = invoke(*words, "--dashboard", cluster.address)
    assert completed.exit_code == expected, f"{completed.output}\n{completed.exception!r}"
    return completed.output


def driver_node(cluster: RayNodes, job: Job) -> Any:
    found = requests.get(f"{cluster.address}/api/jobs/{job.name}", timeout=30).json()
    node = requests.get(f"{cluster.address}/nodes/{found['driver_node_id']}", timeout=30).json()
    return node["data"]["detail"]
