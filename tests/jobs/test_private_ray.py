"""A private Ray ends with its driver, however that ends, and leaves nothing in the home folder or on the disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.ray_nodes import RayNodes
from support.waiting import wait_for

from fossilray.jobs.scheduler.private_ray import MARK, PREFIX, PrivateRay, end_processes

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="reads the processes from Linux"
)

ROOT = Path(__file__).parents[2]
A_WHILE_S = 60

DRIVER = """
import json, os, subprocess, sys, time
from fossilray.jobs.scheduler.private_ray import PrivateRay
private = PrivateRay()
started = [subprocess.Popen(["sleep", "600"], env=os.environ | private.environment, start_new_session=True)]
child = os.fork() if "fork" in sys.argv else -1
if not child:
    time.sleep(600)
print(json.dumps([private.path.parent.name, private._keeper.pid, started[0].pid, child]), flush=True)
time.sleep(600)
"""

RAY_DRIVER = """
import json, os, time
import ray
from fossilray.jobs.scheduler import ray_cluster
with ray_cluster("local"):
    @ray.remote(num_cpus=0.1)
    class Actor:
        def pid(self):
            return os.getpid()
        def work(self):
            while True:
                time.sleep(0.01)
    actor = Actor.remote()
    pid = ray.get(actor.pid.remote())
    actor.work.remote()
    session = ray._private.worker._global_node.get_session_dir_path()
    print(json.dumps([pid, session]), flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder whose name is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="fr", dir="/tmp") as folder:
        yield Path(folder)


def start(program: str, *words: str, **variables: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    return subprocess.Popen(
        [sys.executable, "-c", program, *words],
        cwd=ROOT,
        env=environment | variables,
        stdout=subprocess.PIPE,
        text=True,
    )


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def bearing(text: str) -> list[str]:
    """The command lines of processes whose environment or command line holds a text."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if (
                int(process.name) != os.getpid()
                and text.encode() in command + (process / "environ").read_bytes()
            ):
                found.append(command.decode(errors="replace")[:200])
        except OSError:
            continue
    return found


@pytest.mark.parametrize("words", [[], ["fork"]], ids=["alone", "with a child that holds the pipe"])
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_driver_started_ends_with_it_and_its_folder_goes(
    folder: Path, end: signal.Signals, words: list[str]
) -> None:
    driver = start(DRIVER, *words, RAY_TMPDIR=str(folder))
    assert driver.stdout is not None
    name, keeper, started, child = json.loads(driver.stdout.readline())
    assert (folder / name).stat().st_mode & 0o777 == 0o700
    driver.send_signal(end)
    # Not waited for meanwhile: a driver whose parent takes no note of its end has ended all the same.
    wait_for(lambda: not is_alive(started) and not is_alive(keeper), A_WHILE_S)
    assert not list(folder.iterdir())
    driver.wait(timeout=A_WHILE_S)
    if child > 0:
        os.kill(child, signal.SIGKILL)


def test_processes_of_others_are_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    private, other = PrivateRay(), PrivateRay()
    processes = [
        subprocess.Popen(["sleep", "600"], env={**os.environ, **variables})
        for variables in (private.environment, other.environment, {MARK: f"{private.path.parent}0"}, {})
    ]
    private.close()
    assert processes[0].wait(timeout=A_WHILE_S) < 0
    assert [process.poll() for process in processes[1:]] == [None, None, None]
    assert [path.name for path in folder.iterdir()] == [other.path.parent.name]
    other.close()
    for process in processes[1:]:
        process.kill()
        process.wait()


def test_processes_end_though_the_keeper_was_killed_and_they_refuse(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    private = PrivateRay()
    stubborn = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo; while :; do sleep 0.1; done"],
        env={**os.environ, **private.environment},
        stdout=subprocess.PIPE,
    )
    assert stubborn.stdout is not None
    stubborn.stdout.readline()
    private._keeper.kill()
    private.close()
    assert stubborn.wait(timeout=A_WHILE_S) == -signal.SIGKILL
    assert not list(folder.iterdir())


def test_keeper_takes_no_modules_from_the_folder_that_the_driver_works_in(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("select.py", "tempfile.py", "fossilray.py"):
        (tmp_path / name).write_text("open('was here', 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    private = PrivateRay()
    private.close()
    assert private._keeper.returncode == 0
    assert not (tmp_path / "was here").exists()


def test_a_temporary_folder_of_a_long_name_gives_way_to_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    private = PrivateRay()
    assert private.path.parent.parent == Path("/tmp")
    assert private.path.parent.name.startswith(PREFIX)
    private.close()
    assert not private.path.parent.exists()
    assert not end_processes(private.path.parent)


def test_killed_driver_leaves_no_process_of_ray_and_nothing_in_the_home_folder(
    tmp_path: Path, folder: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    driver = start(RAY_DRIVER, HOME=str(home), TMPDIR=str(folder), RAY_TMPDIR="")
    assert driver.stdout is not None
    actor, session = json.loads(driver.stdout.readline())
    session_folder = Path(session).parent.parent
    assert session_folder.name.startswith(PREFIX)
    assert session_folder.stat().st_mode & 0o777 == 0o700
    assert len(bearing(str(session_folder))) >= 5
    driver.kill()
    wait_for(lambda: not bearing(session_folder.name) and not session_folder.exists(), A_WHILE_S)
    assert not is_alive(actor)
    assert not list(home.rglob("*"))
    driver.wait(timeout=A_WHILE_S)


@pytest.mark.slow
def test_after_a_demo_a_plain_cluster_requires_no_token_and_the_home_folder_is_unchanged(
    tmp_path: Path, folder: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "XDG_", "MPL"))
    }
    environment |= {"HOME": str(home), "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    fossilray = [sys.executable, "-m", "fossilray"]
    words = ["demo", str(tmp_path / "demo"), "--slides", "1", "--size", "2048"]
    demo = subprocess.run([*fossilray, *words], env=environment, capture_output=True, text=True, check=False)
    assert demo.returncode == 0, demo.stderr
    # The list of fonts that matplotlib keeps for all programs of a user is no setting and turns nothing on.
    written = [path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()]
    assert not [name for name in written if not name.startswith(".cache/matplotlib/fontlist-")]
    assert not list(folder.glob("fossilray-[0-9a-f]*"))
    nodes = RayNodes(HOME=str(home))
    del nodes._environment["RAY_AUTH_MODE"]
    with nodes:
        listed = subprocess.run(
            [*fossilray, "job", "list", "--dashboard", nodes.address],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert listed.returncode == 0, listed.stderr
    assert "token" not in listed.stdout + listed.stderr
