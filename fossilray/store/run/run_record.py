"""What run.json holds: everything that decides a run's results, and where they came from."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from fossilray.core.config import RunConfig
from fossilray.core.formats import parse_record
from fossilray.core.records import READABLE_VERSIONS, utc_now
from fossilray.core.schemas import SCHEMA_VERSION
from fossilray.store.run.roles import run_record

_VERSIONED = (
    "fossilray",
    "numpy",
    "openslide-bin",
    "openslide-python",
    "pyarrow",
    "simplejpeg",
    "timm",
    "torch",
    "torchvision",
    "ultralytics",
    "zarr",
)
"""Packages that can change the last bits of a result."""


@dataclass(frozen=True)
class RunRecord:
    """One run's identity. Configuration, weights and schema version decide results; the rest is provenance."""

    config: dict[str, Any]
    """`RunConfig.what_changes_results()`."""
    weights: dict[str, str]
    """sha256 of every weight file, by a name that tells its use."""
    versions: dict[str, str]
    embedder: dict[str, Any]
    """Name, dimension and preprocessing of the backbone; they follow from configuration and weights."""
    schema_version: int
    created_at: str
    """UTC, ISO 8601."""

    @property
    def digest(self) -> str:
        """sha256 of what decides the results; equal digests promise equal tables for equal slides."""
        plain = json.dumps(self._decisive(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(plain.encode()).hexdigest()

    def differences(self, asked: RunRecord) -> list[str]:
        """One line per decisive field in which `asked` differs from this record; empty if a resume is safe."""
        have, want = _flatten(self._decisive()), _flatten(asked._decisive())
        if {self.schema_version, asked.schema_version} <= set(READABLE_VERSIONS):
            # Rows of both versions stand side by side; what the older one lacks is null.
            have.pop("schema_version"), want.pop("schema_version")
        return [
            f"{name}: the run has {_plain(have, name)}, now asked for {_plain(want, name)}"
            for name in sorted(have.keys() | want.keys())
            if _plain(have, name) != _plain(want, name)
        ]

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=2, sort_keys=True).encode() + b"\n"

    @staticmethod
    def from_json(text: bytes, *, url: str) -> RunRecord:
        """The record in the run.json of a run directory.

        Raises:
            DamagedFile: the file is not one that fossilray wrote.
        """
        return parse_record(RunRecord, text, run_record(url))

    def _decisive(self) -> dict[str, Any]:
        return {"schema_version": self.schema_version, "weights": self.weights, **self.config}


def describe_run(
    config: RunConfig,
    weights: Mapping[str, str],
    *,
    embedder: Mapping[str, str | int | list[float]] | None = None,
) -> RunRecord:
    """The record of a run that starts now on this machine's packages.

    weights: sha256 of each weight file, as `detector_digest` and `embedder_digest` give them.
    """
    return RunRecord(
        config=config.what_changes_results(),
        weights=dict(weights),
        embedder=dict(embedder or {}),
        versions={"python": platform.python_version(), **dict(_installed())},
        schema_version=SCHEMA_VERSION,
        created_at=utc_now(),
    )


def _installed() -> list[tuple[str, str]]:
    found = []
    for name in _VERSIONED:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            found.append((name, "not installed"))
    return found


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _plain(flat: Mapping[str, Any], name: str) -> str:
    # Compared as JSON, so that a tuple equals the list it came back as.
    return json.dumps(flat[name], sort_keys=True) if name in flat else "nothing"
