"""Safetensors files, read after what their header claims was checked; only this knows what the library raises."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from fossilray.core.formats.file_role import FileRole
from fossilray.models.files.open_weights import open_weights

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from pydantic import ValidationError

MOST_HEADER_BYTES = 16 * 2**20
"""Far above what 10,000 tensors need, 1 MB."""
MOST_TENSORS = 100_000
LONGEST_NAME = 500
_PLAIN = frozenset({"F64", "F32", "F16", "I64", "I32", "I16", "I8", "U8", "BOOL"})
"""Types that NumPy and PyTorch both have; PyTorch has bfloat16 too."""


def read_tensors(path: Path, role: FileRole) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a file on the CPU, floats as float32, and its metadata.

    Raises:
        role.error: the file is missing, is not a whole safetensors file, or holds types that weights never have.
    """
    with _opened(path, role, "pt", _PLAIN | {"BF16"}) as (file, metadata):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}, metadata


def read_arrays(path: Path, role: FileRole) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The tensors of a file as arrays of their own types, and its metadata.

    Raises:
        role.error: as read_tensors.
    """
    with _opened(path, role, "np", _PLAIN) as (file, metadata):
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118


def read_metadata(path: Path, role: FileRole) -> dict[str, str]:
    """The metadata of a file; its tensors are not read.

    Raises:
        role.error: as read_tensors.
    """
    with _opened(path, role, "np", None) as (_, metadata):
        return metadata


@contextmanager
def _opened(
    path: Path, role: FileRole, framework: str, types: frozenset[str] | None
) -> Iterator[tuple[Any, dict[str, str]]]:
    """types: those that tensors may have; None: none is looked at."""
    from safetensors import SafetensorError, safe_open

    with open_weights(path, role) as file:
        _check_header(file, role)
    try:
        with safe_open(str(path), framework=framework, device="cpu") as file:
            if types is not None:
                _check_tensors(file, role, types)
            yield file, dict(file.metadata() or {})
    except (SafetensorError, OSError, MemoryError) as error:
        raise role.damaged(f"it is not a whole safetensors file ({error})") from None


def _check_header(file: BinaryIO, role: FileRole) -> None:
    length = int.from_bytes(file.read(8), "little")
    size = os.fstat(file.fileno()).st_size
    if not 0 < length <= size - 8:
        raise role.damaged(
            f"it is not a whole safetensors file (a header of {length:,} bytes in a file of {size:,})"
        )
    if length > MOST_HEADER_BYTES:
        raise role.damaged(f"its header of {length:,} bytes is more than {MOST_HEADER_BYTES:,}")


def _check_tensors(file: Any, role: FileRole, types: frozenset[str]) -> None:
    names = list(file.keys())
    if len(names) > MOST_TENSORS:
        raise role.damaged(f"it holds {len(names):,} tensors, more than {MOST_TENSORS:,}")
    for name in names:
        if len(name) > LONGEST_NAME:
            raise role.damaged(f"a tensor's name has {len(name):,} characters, more than {LONGEST_NAME}")
        part = file.get_slice(name)
        kind, shape = part.get_dtype(), part.get_shape()
        if kind not in types:
            raise role.damaged(f"{name[:80]!r} is of type {kind}, and weights are {', '.join(sorted(types))}")
        # Nothing times very much is nothing to the library; sides without bound are another thing to what follows.
        if len(shape) > 16 or math.prod(max(side, 1) for side in shape) >= 2**40:
            raise role.damaged(f"{name[:80]!r} is of shape {shape!r:.80}, which no weights have")


def first_fault(error: ValidationError) -> str:
    """The first of the things that pydantic found, with its place."""
    fault = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part)[:40] for part in fault["loc"])
    return f"{place}: {fault['msg']}"[:300]
