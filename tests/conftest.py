"""Settings and fixtures of all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from support.shared_ray import SharedRay

# Ray would write a token below the home folder, which turns authentication on for later clusters of this user.
os.environ["RAY_AUTH_MODE"] = "disabled"
# Fakes of S3 must not meet the credentials of the user who runs the tests.
os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull

# Scripts of tests/support that run as processes of their own, and Ray's workers, import from tests/ too.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])
)

pytest_plugins = ["support.static_checks"]

_status = pytest.StashKey[int]()
_ray = pytest.StashKey["SharedRay"]()


_ON_RAY = (
    "tests/faults/",
    "tests/jobs/test_inference_job.py",
    "tests/analysis/test_discover.py",
    "tests/analysis/test_search_commands.py",
    "tests/slides/test_copies.py",
    "tests/cli/test_process.py",
)
"""Folders and files with tests that share a Ray cluster; they run one after the other in one process."""


@pytest.fixture(scope="session")
def ray_of_files(pytestconfig: pytest.Config) -> Iterator[SharedRay]:
    """The Ray cluster of the files in _ON_RAY; Ray is imported when a test needs it."""
    from support.shared_ray import SharedRay

    pytestconfig.stash[_ray] = cluster = SharedRay()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def shared_ray(request: pytest.FixtureRequest, ray_of_files: SharedRay) -> str:
    """The address of the Ray cluster of the files in _ON_RAY."""
    assert request.node.nodeid.startswith(_ON_RAY), f"add {request.node.nodeid} to _ON_RAY"
    return ray_of_files.address


@pytest.fixture(scope="module", autouse=True)
def end_of_shared_ray(request: pytest.FixtureRequest) -> None:
    """End the shared cluster before the tests of a file that does not share it: some count processes or sockets."""
    cluster = request.config.stash.get(_ray, None)
    if cluster is not None and not request.node.nodeid.startswith(_ON_RAY):
        cluster.stop()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads of PyTorch cost networks as small as the tests' more than they bring."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


_LONGEST = (
    "test_readme.py",
    "test_static.py",
    "jobs/",
    "security/",
    "test_store_faults.py",
    "test_methods_supervised.py",
    "test_compact.py",
    "deploy/",
    "evaluation/",
    "training/",
    "models/",
    "synthetic/",
    "project/",
    "processing/",
)
"""Files and folders with the longest tests after those of _ON_RAY, longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest files, so that the processes of pytest-xdist end together."""

    def rank(item: pytest.Item) -> int:
        if item.nodeid.startswith(_ON_RAY):
            return -1
        file = item.nodeid.partition("::")[0]
        return next((rank for rank, name in enumerate(_LONGEST) if name in file), len(_LONGEST))

    items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each file to one process of pytest-xdist, and those of _ON_RAY to the same one."""
    from xdist.scheduler import LoadScopeScheduling

    class FileScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "on Ray" if nodeid.startswith(_ON_RAY) else nodeid.partition("::")[0]

    config.option.loadscopereorder = False
    return FileScheduling(config, log)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_status] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End with the status of the tests, at once.

    After twenty minutes with Arrow, FAISS, ONNX Runtime, OpenSlide and Ray in one process the interpreter's own end has
    crashed in a native thread, all tests done; which library's it was is not known.
    """
    if _status in config.stash:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[_status])
