"""Files of torch.save, read as data; tensors are checked against the size of the file before memory is allocated.

Both layouts are supported: the zip archive, and the format of PyTorch before 1.6. The pickle inside is interpreted by
stored_pickle.py, which executes nothing. Exceptions of zipfile, pickletools and torch are translated only here.
"""

from __future__ import annotations

import io
import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fossilray.core.formats.regular_file import open_regular
from fossilray.models.files.stored_pickle import (
    BYTES,
    LEGACY_MAGIC,
    PickleMachine,
    Storage,
    TensorRecord,
    TorchFileError,
)

if TYPE_CHECKING:
    import torch

_MAX_PICKLE_BYTES = 64 * 2**20
_MAX_MEMBERS = 200_000
_MAX_EXPANSION = 8
"""Limit of tensor bytes per file byte: half precision becomes float32, and layers may share weights."""

_LEGACY_PROTOCOL = 1001


class TorchFile:
    """Content of a file; created by `open_torch_file`."""

    def __init__(self, content: Any, fetch: Callable[[Storage, str], bytearray], size: int) -> None:
        self.content = content
        """Plain containers, numbers and strings; other objects are TensorRecord or StoredObject."""
        self._fetch = fetch
        self._remaining = _MAX_EXPANSION * size + 2**20
        self._cached: dict[tuple[str, str], bytearray] = {}

    def tensor(self, record: TensorRecord, *, as_stored: bool = False) -> torch.Tensor:
        """Return a tensor on the CPU in its own memory; floats become float32 unless as_stored.

        Raises:
            TorchFileError: the tensor exceeds its storage, or all tensors together exceed the limit for the file.
        """
        import torch

        with reporting_damage():
            floating = record.dtype in ("float64", "float32", "float16", "bfloat16") and not as_stored
            self._remaining -= record.numel * (4 if floating else BYTES[record.dtype])
            if self._remaining < 0:
                raise TorchFileError("its tensors claim more than eight times the size of the file")
            dtype = _torch_dtype(record.dtype)
            if record.numel == 0:
                return torch.zeros(record.shape, dtype=torch.float32 if floating else dtype)
            content = self._content(record)
            if not record.is_within(len(content) // BYTES[record.dtype]):
                raise TorchFileError(
                    f"a tensor of {record.shape} reaches beyond its storage {record.storage.key}"
                )
            flat = torch.frombuffer(content, dtype=dtype)
            view = flat.as_strided(record.shape, record.stride, record.offset)
            return (view.float() if floating else view).clone(memory_format=torch.contiguous_format)

    def _content(self, record: TensorRecord) -> bytearray:
        key = (record.storage.key, record.dtype)
        if key not in self._cached:
            # Tensors of one storage follow each other, so only the last storage is kept.
            self._cached = {key: self._fetch(record.storage, record.dtype)}
        return self._cached[key]


@contextmanager
def open_torch_file(path: Path, *, is_known: Callable[[str], bool]) -> Iterator[TorchFile]:
    """Open a file that torch.save wrote.

    is_known: whether the pickle may contain the full name of a class or function, besides those of tensors.

    Raises:
        ForeignName: the pickle names an unknown class or function.
        TorchFileError: the file is damaged, or torch.save did not write it.
        OSError: the file is missing, is not a regular file, or cannot be read.
    """
    with ExitStack() as stack:
        with reporting_damage():
            file = stack.enter_context(open_regular(path))
            size = os.fstat(file.fileno()).st_size
            if zipfile.is_zipfile(file):
                archive = stack.enter_context(zipfile.ZipFile(file))
                torch_file = _open_zip(archive, size, is_known)
            else:
                if not size:
                    raise TorchFileError("it is empty")
                content = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                torch_file = _open_legacy(content, is_known)
        yield torch_file


@contextmanager
def reporting_damage() -> Iterator[None]:
    """Translate the exceptions of zipfile, pickletools and torch on damaged files into TorchFileError."""
    try:
        yield
    except TorchFileError:
        raise
    except UnicodeError as error:
        raise TorchFileError(
            f"a string in it is not valid text ({' '.join(str(error).split())[-100:]})"
        ) from None
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        struct.error,
        zlib.error,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
        MemoryError,
    ) as error:
        raise TorchFileError(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from None


def _open_zip(archive: zipfile.ZipFile, size: int, is_known: Callable[[str], bool]) -> TorchFile:
    members = check_members(archive)
    heads = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(heads) != 1:
        raise TorchFileError("it is a zip archive without the data.pkl of torch.save")
    folder = heads[0].rpartition("/")[0]
    if members[heads[0]].file_size > _MAX_PICKLE_BYTES:
        raise TorchFileError(f"its data.pkl is larger than {_MAX_PICKLE_BYTES // 2**20} MB")
    order = members.get(f"{folder}/byteorder")
    if order is not None and (order.file_size > 16 or archive.read(order).strip() != b"little"):
        raise TorchFileError("its numbers are not little endian")
    content = PickleMachine(io.BytesIO(archive.read(heads[0])), is_known, {}).run()

    def fetch(storage: Storage, dtype: str) -> bytearray:
        member = members[f"{folder}/data/{storage.key}"]
        if member.file_size < storage.count * (1 if storage.dtype is None else BYTES[dtype]):
            raise TorchFileError(f"storage {storage.key} is smaller than declared")
        return bytearray(archive.read(member))

    return TorchFile(content, fetch, size)


def check_members(
    archive: zipfile.ZipFile, *, may_be_compressed: Callable[[str], bool] = lambda _: False
) -> Mapping[str, zipfile.ZipInfo]:
    """Return the members by name if each is there once and uncompressed, as PyTorch writes them.

    may_be_compressed: whether PyTorch compresses a member of this name.

    Raises:
        TorchFileError: a member is repeated or compressed, or there are too many.
    """
    members: dict[str, zipfile.ZipInfo] = {}
    listed = archive.infolist()
    if len(listed) > _MAX_MEMBERS:
        raise TorchFileError(f"it is an archive of {len(listed):,} members")
    for member in listed:
        if member.filename in members:
            raise TorchFileError(f"it holds {member.filename} twice")
        stored = member.compress_type == zipfile.ZIP_STORED and member.file_size == member.compress_size
        if not stored and not may_be_compressed(member.filename):
            raise TorchFileError(f"{member.filename} is compressed, which PyTorch never does")
        members[member.filename] = member
    return members


def _open_legacy(content: mmap.mmap, is_known: Callable[[str], bool]) -> TorchFile:
    """Open five pickles (magic, protocol, system, object, storage keys), followed by each storage with its length."""
    storages: dict[str, Storage] = {}

    def next_pickle() -> Any:
        return PickleMachine(content, is_known, storages).run()

    if next_pickle() != LEGACY_MAGIC or next_pickle() != _LEGACY_PROTOCOL:
        raise TorchFileError("it does not begin like a file of torch.save")
    system = next_pickle()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise TorchFileError("its numbers are not little endian")
    root, keys = next_pickle(), next_pickle()
    if not isinstance(keys, list) or len(keys) > _MAX_MEMBERS:
        raise TorchFileError("its list of storages is not a list, or too long")
    start = content.tell()
    offsets: dict[str, int] = {}

    def fetch(storage: Storage, dtype: str) -> bytearray:
        if not offsets:
            offsets.update(_storage_offsets(content, start, keys, storages))
        first = offsets[storage.key]
        count = storage.count * BYTES[dtype]
        if first + count > len(content):
            raise TorchFileError(f"storage {storage.key} is cut short")
        return bytearray(content[first : first + count])

    return TorchFile(root, fetch, len(content))


def _storage_offsets(
    content: mmap.mmap, start: int, keys: list[Any], storages: Mapping[str, Storage]
) -> dict[str, int]:
    offsets = {}
    for key in keys:
        (count,) = struct.unpack("<q", content[start : start + 8])
        storage = storages.get(str(key))
        if storage is None or storage.dtype is None or count != storage.count:
            raise TorchFileError(f"the length of storage {key} differs from its declaration")
        offsets[str(key)] = start + 8
        start += 8 + count * BYTES[storage.dtype]
    return offsets


def _torch_dtype(name: str) -> torch.dtype:
    import torch

    return {
        "float64": torch.float64,
        "float32": torch.float32,
        "float16": torch.float16,
        "bfloat16": torch.bfloat16,
        "int64": torch.int64,
        "int32": torch.int32,
        "int16": torch.int16,
        "int8": torch.int8,
        "uint8": torch.uint8,
        "bool": torch.bool,
    }[name]
