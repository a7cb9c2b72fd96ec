"""Job requests for a cluster, those that are refused before submission, and a job server that breaks off."""

# ruff: noqa: F811 (fixtures are imported by the name that tests use)

from __future__ import annotations

import contextlib
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from aiohttp import web
from ray._private.runtime_env.packaging import create_package
from support.cli_runner import invoke
from support.remote_slides import put
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)

from fossilray.core.config import StoreConfig
from fossilray.core.errors import ConfigError, StoreError, SubmissionError
from fossilray.jobs.submission import DriverNeeds, JobClient, Runtime, plan_job
from fossilray.store.config_file import read_config

ROOT = Path(__file__).parents[2]


def test_the_job_is_the_command_with_its_settings_and_names_run_and_slides() -> None:
    request = plan_job(
        "s3://bucket/sli des",
        "s3://bucket/run/",
        assignments=["detector.confidence=0.4"],
        options=["--strict"],
    )
    assert request.entrypoint == (
        "python -m fossilray process 's3://bucket/sli des' --run s3://bucket/run "
        "--set detector.confidence=0.4 --strict --address auto"
    )
    assert request.metadata["fossilray_run"] == "s3://bucket/run"
    assert request.metadata["fossilray_slides"] == "s3://bucket/sli des"
    other = plan_job("s3://bucket/sli des", "s3://bucket/run", assignments=["detector.confidence=0.5"])
    assert len(request.metadata["fossilray_config_sha256"]) == 64
    assert other.metadata["fossilray_config_sha256"] != request.metadata["fossilray_config_sha256"]


def test_a_stopped_job_gets_minutes_where_ray_gives_seconds() -> None:
    variables = plan_job("/s", "/r", runtime=Runtime(drain_minutes=7)).environment["env_vars"]
    assert variables["RAY_JOB_STOP_WAIT_TIME_S"] == "420"
    own = Runtime(environment={"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "5", "A": "b"}, "pip": ["x"]})
    environment = plan_job("/s", "/r", runtime=own).environment
    assert environment["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == "5"
    assert (environment["env_vars"]["A"], environment["pip"]) == ("b", ["x"])


def test_a_driver_that_reserves_something_still_stays_on_the_head() -> None:
    assert DriverNeeds().placement == {}
    assert DriverNeeds(memory_bytes=2**30).placement == {"node:__internal_head__": 0.001}
    assert DriverNeeds(cpus=1, resources={"driver": 1}).placement == {"driver": 1}


@pytest.mark.parametrize(
    ("slides", "run", "reason"),
    [
        ("slides", "s3://b/run", "the slides slides is relative to this machine's folder"),
        ("s3://b/slides", "runs/one", "the run directory runs/one is relative"),
        ("s3://b/slides", None, "nothing names the run directory; give --run"),
        (None, "s3://b/run", "nothing names the slides; give SLIDES"),
    ],
)
def test_what_only_this_machine_knows_is_refused(slides: str | None, run: str | None, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        plan_job(slides, run)


def test_a_configuration_on_this_machine_travels_with_the_job(tmp_path: Path) -> None:
    config = tmp_path / "my run.yaml"
    config.write_text("slides: {source: s3://b/slides}\nstore: {run: s3://b/run}\n")
    request = plan_job(None, None, config=str(config))
    assert request.config_file == config
    assert "--config 'my run.yaml'" in request.entrypoint
    assert (request.run, request.metadata["fossilray_slides"]) == ("s3://b/run", "s3://b/slides")


def test_with_a_working_directory_the_configuration_must_lie_in_it(tmp_path: Path) -> None:
    (tmp_path / "code" / "conf").mkdir(parents=True)
    for name in ("code/conf/run.yaml", "run.yaml"):
        (tmp_path / name).write_text("store: {run: s3://b/run}\nslides: {source: s3://b/slides}\n")
    runtime = Runtime(working_dir=str(tmp_path / "code"))
    request = plan_job(None, None, config=str(tmp_path / "code/conf/run.yaml"), runtime=runtime)
    assert request.config_file is None
    assert "--config conf/run.yaml" in request.entrypoint
    with pytest.raises(ConfigError, match="is not in the working directory"):
        plan_job(None, None, config=str(tmp_path / "run.yaml"), runtime=runtime)


def test_a_wrong_setting_is_refused_before_anything_is_submitted(s3_run: tuple[str, StoreConfig]) -> None:
    url, access = s3_run
    put(f"{url}.yaml", b"detector: {confidance: 0.3}", access)
    reach = [f"store.endpoint_url={access.endpoint_url}"]
    with pytest.raises(ConfigError, match="confidance is not a configuration field"):
        plan_job("/s", "/r", config=f"{url}.yaml", assignments=reach)
    invoked = invoke("submit", "/s", "--run", "/r", "--entrypoint-resources", "[1]")
    assert isinstance(invoked.exception, ConfigError)


def test_a_configuration_out_of_this_machines_reach_is_left_to_the_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    beyond = ["store.endpoint_url=http://127.0.0.1:9"]
    request = plan_job(None, "s3://b/run", config="s3://b/run.yaml", assignments=beyond)
    assert "not checked before the job starts" in str(request.note)
    assert "--config s3://b/run.yaml" in request.entrypoint
    with pytest.raises(ConfigError, match="give --run"):
        plan_job(None, None, config="s3://b/run.yaml", assignments=beyond)
    with pytest.raises(StoreError):
        read_config("s3://b/run.yaml", [*beyond, "store.tries=1"])


def test_a_configuration_in_an_object_store_is_read_with_the_environments_access(
    s3_run: tuple[str, StoreConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, access = s3_run
    put(f"{url}.yaml", b"detector: {confidence: 0.3}\ncrops: {size_px: 64}\n", access)
    assert access.endpoint_url is not None
    monkeypatch.setenv("AWS_ENDPOINT_URL", access.endpoint_url)
    found = read_config(f"{url}.yaml", ["detector.confidence=0.7"])
    assert (found.detector.confidence, found.crops.size_px) == (0.7, 64)
    with pytest.raises(ConfigError, match="there is no configuration at s3://"):
        read_config(f"{url}-absent.yaml")
    put(f"{url}.yaml", b"detector: [", access)
    with pytest.raises(ConfigError, match=r"run\.yaml .*it is not YAML"):
        read_config(f"{url}.yaml")


def test_the_working_directory_that_is_uploaded_holds_the_code_and_stays_small(tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    for name in ("runs/one/run.json", "data/a.mrxs", "b.mrxs", "census-1/objects.parquet", "tests/test_x.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    for name in (
        ".gitignore",
        ".rayignore",
        "run.yaml",
        "pipelines/process_slides.py",
        "fossilray/processing/worker.py",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes() if (ROOT / name).is_file() else b"")
    assert {name for name in packed(folder, tmp_path) if not name.startswith(".")} == {
        *("run.yaml", "pipelines/process_slides.py", "fossilray/processing/worker.py")
    }
    sizes = packed(ROOT, tmp_path)
    assert {"pipelines/process_slides.py", "fossilray/models/weights/detector.safetensors"} <= set(sizes)
    assert sum(sizes.values()) < 40e6


def test_a_cluster_that_does_not_reply_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SubmissionError, match=r"http://127\.0\.0\.1:9 cannot be reached: .*tunnel"):
        JobClient("http://127.0.0.1:9")


def test_a_log_whose_connection_breaks_is_followed_to_its_end_and_written_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The given address counts, not the one that Ray finds in the environment.
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    written: list[str] = []
    with breaking_server(["one\n", "two\n", "thr", "ee\n"], breaks_after=(2, 3)) as address:
        job = JobClient(address).follow("it", written.append)
    assert "".join(written) == "one\ntwo\nthree\n"
    assert (job.status, job.exit_code) == ("FAILED", 2)


def packed(folder: Path, scratch: Path) -> dict[str, int]:
    """What Ray would upload of a folder, and the bytes of each file."""
    package = scratch / f"{folder.name}.zip"
    create_package(str(folder), package, include_gitignore=True)
    with zipfile.ZipFile(package) as files:
        return {one.filename: one.file_size for one in files.infolist() if not one.is_dir()}


@contextlib.contextmanager
def breaking_server(log: list[str], *, breaks_after: tuple[int, ...]) -> Iterator[str]:
    """A job server as Ray's looks from outside, whose connection breaks after so many chunks each time."""
    import asyncio

    left = list(breaks_after)
    ended = threading.Event()

    async def version(_: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": ray.__version__})

    async def jobs(_: web.Request) -> web.Response:
        over = {"status": "FAILED", "driver_exit_code": 2} if ended.is_set() else {"status": "RUNNING"}
        return web.json_response([{"type": "SUBMISSION", "submission_id": "it", "entrypoint": "", **over}])

    async def tail(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        breaks = left.pop(0) if left else len(log)
        for chunk in log[:breaks]:
            await socket.send_str(chunk)
        if breaks == len(log):
            ended.set()
            await socket.close()
        else:
            assert request.transport is not None
            await asyncio.sleep(0.1)
            request.transport.abort()
        return socket

    server = web.Application()
    server.add_routes([web.get("/api/version", version), web.get("/api/jobs/", jobs)])
    server.add_routes([web.get("/api/jobs/it/logs/tail", tail)])
    loop, runner = asyncio.new_event_loop(), web.AppRunner(server)
    loop.run_until_complete(runner.setup())
    site = web.TCPSite(runner, "127.0.0.1", 0)
    loop.run_until_complete(site.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(runner.cleanup())
        loop.close()
