"""The record of a run, run.json: all that decides its results, and their provenance."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from typing import Any, Self

from fossilray.core.config import RunConfig
from fossilray.core.records import READABLE_VERSIONS, utc_now
from fossilray.core.schemas import SCHEMA_VERSION
from fossilray.store.run.json_record import JsonRecord
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
class RunRecord(JsonRecord):
    """One run's identity. Configuration, weights and schema version decide results; the rest is provenance."""

    config: dict[str, Any]
    """`RunConfig.what_changes_results()`."""
    weights: dict[str, str]
    """sha256 of every weight file, by use and name: `detector/…`, `embedder/…`."""
    versions: dict[str, str]
    embedder: dict[str, Any]
    """Name, dimension and preprocessing of the backbone; they follow from configuration and weights."""
    schema_version: int
    created_at: str
    """UTC, ISO 8601."""

    def identity(self) -> dict[str, Any]:
        """Configuration, weights and schema version; equal ones promise equal tables for equal slides."""
        return {"schema_version": self.schema_version, "weights": self.weights, **self.config}

    def differences(self, requested: Self) -> list[str]:
        """Return one clause for each such field that differs, with both values; empty if the run can be resumed."""
        versions = {self.schema_version, requested.schema_version}
        if versions <= set(READABLE_VERSIONS):
            # Rows of both versions can be in one run; columns that the older one lacks are null.
            requested = replace(requested, schema_version=self.schema_version)
        return super().differences(requested)

    @staticmethod
    def from_json(text: bytes, *, url: str) -> RunRecord:
        """The record in the run.json of a run directory.

        Raises:
            DamagedFile: the file is not one that fossilray wrote.
        """
        return RunRecord.parse(text, run_record(url))


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


@cache
def _installed() -> tuple[tuple[str, str], ...]:
    installed = []
    for name in _VERSIONED:
        try:
            installed.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            installed.append((name, "not installed"))
    return tuple(installed)
