"""Opening weight files: regular files only, with one wording for those that are missing or cannot be opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fossilray.core.errors import FossilrayError
from fossilray.core.formats.file_role import FileRole
from fossilray.core.formats.regular_file import open_regular


@contextmanager
def open_weights(path: Path, role: FileRole) -> Iterator[BinaryIO]:
    """Open a weight file for reading; a pipe, a socket or a device is refused at once.

    Raises:
        role.error: the file is missing, is not a regular file, or cannot be opened or read.
    """
    try:
        with open_regular(path) as file:
            yield file
    except FileNotFoundError:
        raise missing_weights(role) from None
    except OSError as error:
        raise role.damaged(error) from None


def missing_weights(role: FileRole) -> FossilrayError:
    """Return the error for a weight file that does not exist."""
    return role.error(f"{role.name} ({role.use}) does not exist; {role.remedy}")
