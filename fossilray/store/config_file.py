"""The configuration that a command names, wherever it lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fossilray.core.config import RunConfig, load_config, parse_config
from fossilray.core.errors import ConfigError
from fossilray.store.files.base import is_remote, local_path
from fossilray.store.files.open import open_files


def read_config(
    place: str | None, assignments: Sequence[str] = (), *, access: Sequence[str] = ()
) -> RunConfig:
    """The configuration in a YAML file on a disk or in an object store, with `section.field=value` applied.

    The store is reached as `store.…` among the assignments says, else as the environment does (credentials,
    AWS_ENDPOINT_URL, an instance's role): what the file itself says comes too late. access: more such
    assignments, for the reading alone.

    Raises:
        ConfigError: there is no such file, or a key or value is not one fossilray knows.
        StoreError: the object store does not show it.
    """
    if place is None or not is_remote(place):
        return load_config(None if place is None else Path(local_path(place)), list(assignments))
    return parse_config(_fetch(place, [*assignments, *access]), list(assignments), name=place)


def _fetch(place: str, assignments: Sequence[str]) -> str:
    folder, _, name = place.rpartition("/")
    access = load_config(None, [one for one in assignments if one.strip().startswith("store.")]).store
    try:
        return open_files(folder, access).read(name).decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration at {place}; check the address") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read the configuration {place}: {error}; check the address") from None
