"""The whole afternoon on one machine: an archive in a bucket, a job on a cluster, a node lost, one gained, the census.

Takes minutes: pytest -m slow tests/deploy/test_rehearsal.py -s
"""

# ruff: noqa: F811 (fixtures are imported by the name that tests use)

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import boto3
import pyarrow.parquet as pq
import pytest
from support.cli_runner import run_command
from support.ray_nodes import RayNodes
from support.remote_slides import put, upload
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)
from support.waiting import wait_for

from fossilray.core.config import StoreConfig
from fossilray.jobs.submission import JobClient
from fossilray.store import RunStore, open_run
from fossilray.store.query.connection import run_query
from fossilray.synthetic.archive import synthesise_archive
from fossilray.synthetic.truth import score_against_truth

SLIDES = 40
SETTINGS = """
slides: {{source: {run}-slides, scratch: {scratch}, scratch_gb: 1}}
store: {{run: {run}}}
workers: {{count: 2, cpus_per_worker: 0.9}}
"""
RECALL, PRECISION = 0.8, 0.8
"""What docs/science/detector-figures.md leaves room for, over objects of the sizes that the detector is meant for."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_archive_in_a_bucket_is_worked_off_while_nodes_come_and_go(
    s3_endpoint: str, s3_run: tuple[str, StoreConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, access = s3_run
    clock = Clock()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    truth = pq.read_table(
        synthesise_archive(tmp_path / "slides", slides=SLIDES, size_px=2048, form="mrxs", seed=7)
    )
    clock.lap(f"{SLIDES} slides painted")
    upload(tmp_path / "slides", f"{run}-slides", access)
    put(f"{run}.yaml", SETTINGS.format(run=run, scratch=tmp_path / "scratch").encode(), access)
    clock.lap("uploaded")

    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1"}
    with RayNodes(AWS_ENDPOINT_URL=s3_endpoint, **keys) as cluster:
        cluster.add(cpus=1)
        doomed = cluster.add(cpus=1)
        store, server = RunStore.open(run, access), JobClient(cluster.address)
        clock.lap("3 nodes up, the head without CPUs for work")
        run_command("submit", "--config", f"{run}.yaml", "--no-follow", "--dashboard", cluster.address)
        commits(4, store, server)
        clock.lap("4 slides committed")
        # Both nodes have a slide in work when one of them goes.
        wait_until(lambda: len(store.attempts.heartbeats()[0].in_flight) >= 2, server)
        doomed.kill()
        lost_at = len(store.committed())
        commits(lost_at + 4, store, server)
        clock.lap("a node killed in mid-slide, 4 more committed without it")
        cluster.add(cpus=1)
        output = run_command("job", "logs", run, "--follow", "--dashboard", cluster.address)
        clock.lap("a node added, the job ended")
    assert f"{SLIDES} of {SLIDES} slides committed" in output
    assert "SUCCEEDED, exit code 0" in output
    retried = [
        json.loads(line)["retried"] for line in output.splitlines() if line.startswith('{"event": "progress"')
    ]
    assert retried[-1], f"the node that was killed had a slide in work: {output}"

    assert "sound" in run_command("verify", run, "--deep")
    clock.lap("verify --deep")
    run_command("compact", run, "--to", f"{run}-census")
    clock.lap("compact")
    census = open_run(f"{run}-census", access)
    count = run_query(census, "SELECT count(*) FROM objects")[0][0].as_py()
    assert count == sum(summary.objects for summary in store.summaries())
    boxes = run_query(census, "SELECT slide_id, x_min, y_min, x_max, y_max FROM objects")
    score = score_against_truth(boxes, truth)
    print(f"truth {score.true}, DuckDB {count}, recall {score.recall:.3f}, precision {score.precision:.3f}")
    assert len(set(boxes["slide_id"].to_pylist())) == SLIDES
    assert RECALL * score.true <= count <= score.true / PRECISION
    assert score.recall is not None
    assert score.recall >= RECALL
    client = boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1")
    assert not client.list_multipart_uploads(Bucket=run.split("/")[2]).get("Uploads")


class Clock:
    """Prints the duration of each part of the rehearsal."""

    def __init__(self) -> None:
        self._last_s = time.monotonic()

    def lap(self, what: str) -> None:
        now_s = time.monotonic()
        print(f"{now_s - self._last_s:7.1f} s  {what}", flush=True)
        self._last_s = now_s


def commits(count: int, store: RunStore, server: JobClient) -> None:
    """Wait until so many slides are committed."""
    wait_until(lambda: len(store.committed()) >= count, server)


def wait_until(is_so: Callable[[], bool], server: JobClient) -> None:
    """Wait for something that the last submitted job brings about."""
    wait_for(
        is_so,
        600,
        pause_s=0.2,
        lives=lambda: not server.jobs()[-1].is_over,
        log=lambda: server.logs(server.jobs()[-1].name),
    )
