"""An application over a small run, and a client that speaks to it as a page does."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from fossilray.labels.audit.audit_record import Audit
from fossilray.serve.access import LOOPBACK
from fossilray.serve.annotators import Annotators
from fossilray.serve.application import build_application
from fossilray.serve.identification_desk import IdentificationSettings
from fossilray.serve.served_run import ServedRun
from fossilray.store import RunStore

ORIGIN = "http://127.0.0.1:8000"


def client_of(
    store: RunStore,
    *,
    labels: Path | None = None,
    annotators: Annotators | None = None,
    audit: Audit | None = None,
    identification: IdentificationSettings | None = None,
) -> TestClient:
    """A client of an application that serves one run as `run`; use it as a context manager."""
    served = ServedRun("run", store, labels=labels, audit=audit)
    application = build_application(
        [served], annotators or Annotators.one("ada"), hosts=LOOPBACK, identification=identification
    )
    return TestClient(application, base_url=ORIGIN, headers={"origin": ORIGIN})


def an_act(
    store: RunStore, slide_id: str, object_id: int | None, name: str | None, **more: Any
) -> dict[str, Any]:
    """An act as a page sends it; name None withdraws."""
    footer = store.footer(slide_id)
    assert footer is not None
    states = None if name is None else {"name": name, **more.pop("states", {})}
    return {
        "id": secrets.token_hex(16),
        "slide_id": slide_id,
        "object_id": object_id,
        "attempt": footer.attempt,
        "states": states,
        **more,
    }


def send(client: TestClient, *acts: dict[str, Any]) -> dict[str, Any]:
    """Send acts and return the outcome."""
    answer = client.post("/api/runs/run/acts", json={"acts": acts})
    assert answer.status_code == 200, answer.text
    outcome: dict[str, Any] = answer.json()
    return outcome
