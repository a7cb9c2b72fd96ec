"""A private Ray listens on the loopback interface only, and nothing is reported to other hosts."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray._private import ray_constants
from support.shared_ray import SharedRay

from fossilray.jobs.scheduler import ray_cluster

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs the socket table of Linux")

LISTENS, UNCONNECTED = "0A", "07"
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def sockets_of(processes: set[int]) -> Iterator[tuple[int, str, Address, Address]]:
    """Process, state, own and far address of each TCP socket."""
    owners: dict[str, int] = {}
    for process in processes:
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{process}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = str(descriptor.readlink())
                    if target.startswith("socket:["):
                        owners[target[8:-1]] = process
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, own, far, state, *_, inode = line.split()[:10]
            if inode in owners:
                yield owners[inode], state, parse_address(own), parse_address(far)


def parse_address(shown: str) -> Address:
    """The address of `0100007F:1F90`: words of 32 bits in this machine's order of bytes."""
    digits = shown.partition(":")[0]
    words = [
        int(digits[start : start + 8], 16).to_bytes(4, sys.byteorder) for start in range(0, len(digits), 8)
    ]
    address = ipaddress.ip_address(b"".join(words))
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def family(root: int) -> set[int]:
    """The process and all that came of it."""
    parents: dict[int, list[int]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(process.name))
    found, new = {root}, [root]
    while new:
        new = [child for process in new for child in parents.get(process, [])]
        found.update(new)
    return found


def test_addresses_are_distinguished() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        mine = [own for _, state, own, _ in sockets_of({os.getpid()}) if state == LISTENS]
    assert ipaddress.ip_address("127.0.0.1") in mine
    assert not parse_address("00000000:0016").is_loopback
    assert parse_address("0000000000000000FFFF00000100007F:A967").is_loopback
    assert parse_address("00000000000000000000000001000000:A967").is_loopback


def test_a_private_ray_listens_on_loopback_alone_and_connects_to_no_other_host() -> None:
    before, variables = ray_constants.ENABLE_RAY_CLUSTER, authentication()
    with ray_cluster("local"):
        # The process may start others meanwhile, which are not part of the cluster.
        assert authentication() == variables
        assert before == ray_constants.ENABLE_RAY_CLUSTER

        @ray.remote(num_cpus=0.1)
        class Actor:
            def pid(self) -> int:
                return os.getpid()

            def token(self) -> tuple[str, int]:
                return os.environ["RAY_AUTH_MODE"], len(os.environ["RAY_AUTH_TOKEN"])

        actor = Actor.remote()
        assert ray.get(actor.pid.remote()) in family(os.getpid())
        listening, outside = set(), set()
        for _ in range(8):  # agents open their servers one after the other
            for process, state, own, far in sockets_of(family(os.getpid())):
                if state == LISTENS:
                    listening.add((process, own))
                elif state != UNCONNECTED and not far.is_loopback:
                    outside.add((process, far))
            time.sleep(0.25)
        open_to_others = {(process, own) for process, own in listening if not own.is_loopback}
        assert len(listening) >= 5
        assert not open_to_others
        assert not outside
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        token = actor.token.remote()
        assert ray.get(token) == ("token", 64)
        session = Path(ray._private.worker._global_node.get_session_dir_path())
    assert authentication() == variables
    assert not session.parent.parent.exists()


@pytest.mark.slow
def test_another_cluster_can_be_joined_after_a_private_one() -> None:
    other = SharedRay()
    for address in ("local", other.address, "local", other.address):
        with ray_cluster(address):

            @ray.remote(num_cpus=0.1)
            def pid() -> int:
                return os.getpid()

            assert ray.get(pid.remote()) != os.getpid()
    other.stop()


def authentication() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH")}


def test_loading_models_and_working_on_a_slide_uses_no_network(tmp_path: Path) -> None:
    """In a process of its own, with a hook that Python calls for every connection and every look-up of a name."""
    program = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        connections = []
        names = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind", "socket.sendto")
        def hook(event, arguments):
            if event in names and not (event == "socket.connect" and isinstance(arguments[1], (str, bytes))):
                connections.append((event, arguments[1:]))
        sys.addaudithook(hook)
        from pathlib import Path
        from support.slides_on_disk import write_slide
        from fossilray.slides.catalog import find_slides
        from fossilray.core.config import RunConfig
        from fossilray.core.records import WorkItem
        from fossilray.store import RunStore
        from fossilray.store.run.run_record import describe_run
        from fossilray.processing.worker import SlideWorker
        folder = Path({str(tmp_path)!r})
        write_slide(folder / "slides" / "a.mrxs", size=1024)
        config = RunConfig()
        store = RunStore.open(str(folder / "run"), config.store)
        store.create_or_check(describe_run(config, {{}}))
        rows = store.freeze_catalog(find_slides(str(folder / "slides")).rows)
        worker = SlideWorker(str(folder / "run"), config)
        worker.prepare()
        outcome = worker.process(WorkItem.of_slide(rows[0]))
        assert outcome.summary is not None, outcome
        assert outcome.summary.objects > 0
        import ultralytics
        print(connections)
        sys.exit(1 if connections else 0)
    """)
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=300
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-3000:]
