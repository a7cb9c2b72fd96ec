"""Safetensors files, read after their headers were checked; exceptions of the library are translated only here."""

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

_MAX_HEADER_BYTES = 16 * 2**20
"""10,000 tensors need 1 MB."""
_MAX_TENSORS = 100_000
MAX_NAME_LENGTH = 500
_PLAIN = frozenset({"F64", "F32", "F16", "I64", "I32", "I16", "I8", "U8", "BOOL"})
"""Types of both NumPy and PyTorch; PyTorch has bfloat16 too."""


def read_tensors(path: Path, role: FileRole) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read the tensors of a file (on the CPU, floats as float32) and its metadata.

    Raises:
        role.error: the file is missing, is not a whole safetensors file, or holds types that weights never have.
    """
    with _opened(path, role, "pt", _PLAIN | {"BF16"}) as (file, metadata):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}, metadata


def read_arrays(path: Path, role: FileRole) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read the tensors of a file as arrays in the dtypes of the file, and its metadata.

    Raises:
        role.error: as read_tensors.
    """
    with _opened(path, role, "np", _PLAIN) as (file, metadata):
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118


def read_tensor_metadata(path: Path, role: FileRole) -> dict[str, str]:
    """Read the metadata of a file without its tensors.

    Raises:
        role.error: as read_tensors.
    """
    with _opened(path, role, "np", None) as (_, metadata):
        return metadata


@contextmanager
def _opened(
    path: Path, role: FileRole, framework: str, types: frozenset[str] | None
) -> Iterator[tuple[Any, dict[str, str]]]:
    """types: the types that tensors may have; None: tensors are not checked."""
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
    if length > _MAX_HEADER_BYTES:
        raise role.damaged(f"its header of {length:,} bytes is more than {_MAX_HEADER_BYTES:,}")


def _check_tensors(file: Any, role: FileRole, types: frozenset[str]) -> None:
    names = list(file.keys())
    if len(names) > _MAX_TENSORS:
        raise role.damaged(f"it holds {len(names):,} tensors, more than {_MAX_TENSORS:,}")
    for name in names:
        if len(name) > MAX_NAME_LENGTH:
            raise role.damaged(f"a tensor's name has {len(name):,} characters, more than {MAX_NAME_LENGTH}")
        tensor = file.get_slice(name)
        kind, shape = tensor.get_dtype(), tensor.get_shape()
        if kind not in types:
            raise role.damaged(f"{name[:80]!r} is of type {kind}, and weights are {', '.join(sorted(types))}")
        # A side of 0 makes any other side acceptable to the library, but not to code that uses the shape.
        if len(shape) > 16 or math.prod(max(side, 1) for side in shape) >= 2**40:
            raise role.damaged(f"{name[:80]!r} is of shape {shape!r:.80}, which no weights have")


def first_validation_error(error: ValidationError) -> str:
    """Describe the first error of a pydantic validation, with its location."""
    first = error.errors(include_url=False, include_input=False)[0]
    location = ".".join(str(key)[:40] for key in first["loc"])
    return f"{location}: {first['msg']}"[:300]
