"""Reading a configuration file from a disk or an object store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fossilray.core.config import RunConfig, load_config, parse_config
from fossilray.core.errors import ConfigError
from fossilray.store.files.base import is_remote, local_path
from fossilray.store.files.open import open_files


def read_config(
    path: str | None, assignments: Sequence[str] = (), *, access: Sequence[str] = ()
) -> RunConfig:
    """Read a configuration from a YAML file on a disk or in an object store, and apply `section.field=value`.

    The store is reached by the `store.…` assignments and the environment (credentials, AWS_ENDPOINT_URL, an
    instance's role); settings in the file itself do not apply to its own reading. access: further assignments for the
    reading alone.

    Raises:
        ConfigError: the file does not exist, or a key or value in it is not valid.
        StoreError: the object store cannot be read.
    """
    if path is None or not is_remote(path):
        return load_config(None if path is None else Path(local_path(path)), list(assignments))
    return parse_config(_fetch(path, [*assignments, *access]), list(assignments), name=path)


def _fetch(path: str, assignments: Sequence[str]) -> str:
    folder, _, name = path.rpartition("/")
    access = load_config(None, [text for text in assignments if text.strip().startswith("store.")]).store
    try:
        return open_files(folder, access).read(name).decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration at {path}; check the address") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}; check the address") from None
