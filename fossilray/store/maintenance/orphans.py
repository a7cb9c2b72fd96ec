"""Array groups of a run directory, and whether a process may still commit them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from fossilray.core.errors import DamagedFile
from fossilray.core.formats import parse_json
from fossilray.core.records import FileEntry
from fossilray.store.run.layout import ARRAYS, ATTEMPTS, PENDING
from fossilray.store.run.roles import attempt_record
from fossilray.store.run.run_store import RunStore

_GROUP = re.compile(rf"{ARRAYS}/(?P<slide_id>[^/]+)/(?P<attempt>[^/]+)\.zarr/(?P<name>.+)")
_ATTEMPT = re.compile("[0-9a-f]{16}")
_GROUP_JSON = r"zarr\.(?:json|\w+\.partial)"
_MADE = re.compile(rf"{_GROUP_JSON}|(?:crops|embeddings)/(?:{_GROUP_JSON}|c(?:/\d+)+(?:\.\w+\.partial)?)")
_PENDING = re.compile(rf"{PENDING}/(?P<slide_id>[^/]+)/(?P<attempt>[0-9a-f]{{16}})\.parquet")


@dataclass(frozen=True)
class ArrayGroup:
    """Arrays of one attempt, complete or not."""

    slide_id: str
    attempt: str
    files: Mapping[str, int]
    """Bytes of each file, by its path inside the group."""
    written_at: datetime
    """Time of its youngest file, UTC, by the store's clock."""

    @property
    def is_ours(self) -> bool:
        """Whether its name and the names of its files are names that fossilray gives."""
        return bool(_ATTEMPT.fullmatch(self.attempt)) and all(_MADE.fullmatch(name) for name in self.files)

    @property
    def path(self) -> str:
        """Relative to the run directory, as the `arrays` column has it."""
        return f"{ARRAYS}/{self.slide_id}/{self.attempt}.zarr"

    @property
    def bytes(self) -> int:
        return sum(self.files.values())


def list_array_groups(store: RunStore, slide_id: str) -> list[ArrayGroup]:
    """List the arrays of all attempts at one slide, by path.

    The run of a whole archive has millions of array files; one list of all would take gigabytes.
    """
    gathered: dict[str, list[tuple[str, FileEntry]]] = {}
    for entry in store.files.entries(f"{ARRAYS}/{slide_id}"):
        named = _GROUP.fullmatch(entry.path)
        if named is not None and named["slide_id"] == slide_id:
            gathered.setdefault(named["attempt"], []).append((named["name"], entry))
    return [
        ArrayGroup(
            slide_id,
            attempt,
            {name: entry.bytes for name, entry in files},
            max(entry.modified for _, entry in files),
        )
        for attempt, files in sorted(gathered.items())
    ]


def is_behind(path: str, links: Iterable[str]) -> bool:
    """Return whether a path is one of these links or is behind one."""
    return any(f"{path}/".startswith(f"{link}/") for link in links)


def is_linked(path: str, links: Iterable[str]) -> bool:
    """Return whether a path is one of these links, is behind one, or holds one."""
    links = list(links)
    return is_behind(path, links) or any(link.startswith(f"{path}/") for link in links)


def list_pending(store: RunStore) -> dict[str, FileEntry]:
    """Objects files that wait for the only writer, by the path of the arrays that they name."""
    pending = {}
    for entry in store.files.entries(PENDING):
        named = _PENDING.fullmatch(entry.path)
        if named is not None:
            pending[f"{ARRAYS}/{named['slide_id']}/{named['attempt']}.zarr"] = entry
    return pending


def may_still_commit(store: RunStore, group: ArrayGroup, now: datetime) -> bool:
    """Return whether the attempt that writes these arrays has not failed and is within its deadline.

    An attempt with an unreadable record counts as running, an attempt without a record does not.
    """
    path = f"{ATTEMPTS}/{group.slide_id}/{group.attempt}.json"
    try:
        stated = parse_json(store.files.read(path), attempt_record(f"{store.url}/{path}"))
        return "failed_at" not in stated and now <= datetime.fromisoformat(stated["deadline_at"])
    except FileNotFoundError:
        return False
    except (DamagedFile, ValueError, KeyError, TypeError):
        return True
