"""Files at a path or URL, opened by its protocol."""

from __future__ import annotations

from pathlib import Path

from fossilray.core.config import StoreConfig
from fossilray.core.errors import StoreError
from fossilray.store.files.base import Files, is_remote, local_path
from fossilray.store.files.local import LocalFiles
from fossilray.store.files.options import EXTRAS, first_sentence
from fossilray.store.files.remote import RemoteFiles


def open_files(url: str, config: StoreConfig) -> Files:
    """The files below a local path or a URL that fsspec knows; touches nothing yet.

    Raises:
        StoreError: the protocol is unknown, or its package is not installed, or the URL holds credentials.
    """
    if not is_remote(url):
        return LocalFiles(Path(local_path(url)), single_writer=config.single_writer)
    protocol, _, rest = url.partition("://")
    if "@" in rest.partition("/")[0]:
        raise StoreError(
            f"a {protocol}:// address must not hold credentials; put them into the shared AWS credentials "
            "file and name its profile in store.profile"
        )
    try:
        return RemoteFiles(protocol, rest, config)
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        remedy = f"run `pip install fossilray[{extra}]`" if extra else "install that package"
        raise StoreError(f"cannot reach {url}: {first_sentence(error)}; {remedy}") from None
    except ValueError as error:
        raise StoreError(
            f"cannot reach {url}: {first_sentence(error)}; use a local path or s3://bucket/folder"
        ) from None
