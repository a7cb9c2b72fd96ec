"""Starts the server of the pages on an address of this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fossilray.core.errors import UsageError
from fossilray.labels.audit.audit_record import Audit
from fossilray.labels.audit.audited_run import refuse_other_objects
from fossilray.serve.access import LOOPBACK
from fossilray.serve.annotators import Annotators, read_annotators
from fossilray.serve.application import COMMIT_EVERY_S, build_application
from fossilray.serve.identification_desk import IdentificationSettings
from fossilray.serve.served_run import ServedRun
from fossilray.store import RunStore

_CLOSE_WITHIN_S = 3


def serve_runs(
    stores: Sequence[RunStore],
    *,
    host: str,
    port: int,
    name: str,
    folder: Path | None = None,
    labels: Path | None = None,
    predictions: str | None = None,
    audit: Audit | None = None,
    annotators_file: Path | None = None,
    allowed_hosts: Sequence[str] = (),
    commit_every_s: float = COMMIT_EVERY_S,
    identification: IdentificationSettings | None = None,
    ready: Callable[[str], None] = print,
) -> None:
    """Serve runs until the process is interrupted; acts are safe and become a round when it ends.

    Args:
        name: under which the only user of a laptop labels.
        folder: where the slides lie now; None: where the runs were made.
        audit: an audit of one of the runs, whose objects are a queue to label.
        annotators_file: table of name, token and role; needed beyond loopback.
        commit_every_s: seconds after which acts become a round.
        identification: how uploaded images are identified; None: without a head.
        ready: is called with the address before the first request.

    Raises:
        UsageError: an address beyond loopback without annotators, or one that is taken; a head of another backbone;
            an audit of no run.
    """
    import uvicorn

    is_local = _is_loopback(host)
    if not is_local and annotators_file is None:
        raise UsageError(
            f"{host} is reached from other machines, so everybody needs a token: give --annotators FILE, a table of "
            "name, token and role, or serve on 127.0.0.1"
        )
    annotators = Annotators.one(name) if annotators_file is None else read_annotators(annotators_file)
    hosts = {*LOOPBACK, *allowed_hosts, *(() if host in ("0.0.0.0", "::") else (host,))}
    audited = None if audit is None else _audited_run(audit, stores)
    runs = [
        ServedRun(
            key,
            store,
            folder=folder,
            labels=labels,
            predictions=predictions,
            audit=audit if store is audited else None,
        )
        for key, store in zip(_keys(stores), stores, strict=True)
    ]
    application = build_application(
        runs, annotators, hosts=hosts, commit_every_s=commit_every_s, identification=identification
    )
    config = uvicorn.Config(
        application,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_CLOSE_WITHIN_S,
    )
    server = uvicorn.Server(config)
    try:
        listening = config.bind_socket()
    except SystemExit:
        raise UsageError(
            f"{host}:{port} cannot be used; another program listens there, name another --port"
        ) from None
    listening.listen()  # so that a request that comes before the server runs waits
    ready(f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{listening.getsockname()[1]}/")
    server.run(sockets=[listening])


def _audited_run(audit: Audit, stores: Sequence[RunStore]) -> RunStore:
    """Return the run that an audit was drawn from.

    Raises:
        UsageError: it is none of these, or does not hold the drawn objects any more.
    """
    store = next((store for store in stores if store.read_run().digest == audit.record.run_digest), stores[0])
    refuse_other_objects(audit, store)
    return store


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _keys(stores: Sequence[RunStore]) -> list[str]:
    """Return a short name for each run: the last part of its address, with a number where several have it."""
    keys: list[str] = []
    for store in stores:
        stem = store.url.rstrip("/").rpartition("/")[2] or "run"
        key, number = stem, 1
        while key in keys:
            number += 1
            key = f"{stem}-{number}"
        keys.append(key)
    return keys
