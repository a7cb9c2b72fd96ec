"""Clusters that cannot be joined: a sentence, soon, and no process that ends by itself."""

from __future__ import annotations

import functools
import socket

import pytest

from fossilray.core.errors import WorkerError
from fossilray.jobs.scheduler import ray_cluster


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def test_an_address_without_a_cluster_is_reported_with_the_remedy() -> None:
    address = f"127.0.0.1:{free_port()}"
    message = rf"no Ray cluster can be joined at {address} .*--address"
    with pytest.raises(WorkerError, match=message), ray_cluster(address):
        pass


def test_no_cluster_on_this_machine_is_reported_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # Where Ray looks for the last cluster that was started here; others may run on this machine.
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path_factory.mktemp("none")))
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", functools.cache(set))
    with pytest.raises(WorkerError, match="no Ray cluster can be joined at auto"), ray_cluster("auto"):
        pass
