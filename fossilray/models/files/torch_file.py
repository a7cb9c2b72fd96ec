"""Files of torch.save read as data, their tensors checked against the file before memory is taken for them.

Both layouts are read: the zip archive, and the one that PyTorch wrote before 1.6. The pickle inside is read by
stored_pickle.py, which runs nothing. The only place that knows what zipfile, pickletools and torch raise on damage.
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

MOST_PICKLE_BYTES = 64 * 2**20
MOST_MEMBERS = 200_000
MOST_EXPANSION = 8
"""Bytes of tensors by bytes of the file: half precision read as float32, and weights that layers share."""

_LEGACY_PROTOCOL = 1001


class TorchFile:
    """What one file holds; made by `open_torch_file`."""

    def __init__(self, content: Any, fetch: Callable[[Storage, str], bytearray], size: int) -> None:
        self.content = content
        """Plain containers, numbers and texts, with a TensorRecord or a Stored where other things were."""
        self._fetch = fetch
        self._left = MOST_EXPANSION * size + 2**20
        self._read: dict[tuple[str, str], bytearray] = {}

    def tensor(self, record: TensorRecord, *, as_stored: bool = False) -> torch.Tensor:
        """The tensor on the CPU, in memory of its own, floats as float32 unless they are wanted as stored.

        Raises:
            TorchFileError: it reaches beyond its storage, or all tensors together outgrow the file.
        """
        import torch

        with as_faults():
            floating = record.dtype in ("float64", "float32", "float16", "bfloat16") and not as_stored
            self._left -= record.numel * (4 if floating else BYTES[record.dtype])
            if self._left < 0:
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
            seen = flat.as_strided(record.shape, record.stride, record.offset)
            return (seen.float() if floating else seen).clone(memory_format=torch.contiguous_format)

    def _content(self, record: TensorRecord) -> bytearray:
        kept = (record.storage.key, record.dtype)
        if kept not in self._read:
            # Tensors of one storage follow each other; the one before is let go.
            self._read = {kept: self._fetch(record.storage, record.dtype)}
        return self._read[kept]


@contextmanager
def open_torch_file(path: Path, *, is_known: Callable[[str], bool]) -> Iterator[TorchFile]:
    """The content of a file that torch.save wrote.

    is_known: of the full names of classes and functions that the pickle may name besides those of tensors.

    Raises:
        ForeignName: it names another.
        TorchFileError: it is damaged, or no such file. OSError passes.
    """
    with ExitStack() as held:
        with as_faults():
            file = held.enter_context(open_regular(path))
            size = os.fstat(file.fileno()).st_size
            if zipfile.is_zipfile(file):
                archive = held.enter_context(zipfile.ZipFile(file))
                found = _open_zip(archive, size, is_known)
            else:
                if not size:
                    raise TorchFileError("it is empty")
                content = held.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                found = _open_legacy(content, is_known)
        yield found


@contextmanager
def as_faults() -> Iterator[None]:
    """What zipfile, pickletools and torch raise on damage, which depends on where it lies, as one error."""
    try:
        yield
    except TorchFileError:
        raise
    except UnicodeError as error:
        raise TorchFileError(f"a text in it is no text ({' '.join(str(error).split())[-100:]})") from None
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
    members = checked_members(archive)
    heads = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(heads) != 1:
        raise TorchFileError("it is a zip archive without the data.pkl of torch.save")
    folder = heads[0].rpartition("/")[0]
    if members[heads[0]].file_size > MOST_PICKLE_BYTES:
        raise TorchFileError(f"its data.pkl is larger than {MOST_PICKLE_BYTES // 2**20} MB")
    order = members.get(f"{folder}/byteorder")
    if order is not None and (order.file_size > 16 or archive.read(order).strip() != b"little"):
        raise TorchFileError("its numbers are not little endian")
    content = PickleMachine(io.BytesIO(archive.read(heads[0])), is_known, {}).run()

    def fetch(storage: Storage, dtype: str) -> bytearray:
        member = members[f"{folder}/data/{storage.key}"]
        if member.file_size < storage.count * (1 if storage.dtype is None else BYTES[dtype]):
            raise TorchFileError(f"storage {storage.key} holds less than is said of it")
        return bytearray(archive.read(member))

    return TorchFile(content, fetch, size)


def checked_members(
    archive: zipfile.ZipFile, *, may_swell: Callable[[str], bool] = lambda _: False
) -> Mapping[str, zipfile.ZipInfo]:
    """The members by name, stored as PyTorch stores them: each once, and not compressed, so that none can swell.

    may_swell: of names, whether PyTorch compresses these.

    Raises:
        TorchFileError: they are not.
    """
    found: dict[str, zipfile.ZipInfo] = {}
    listed = archive.infolist()
    if len(listed) > MOST_MEMBERS:
        raise TorchFileError(f"it is an archive of {len(listed):,} members")
    for member in listed:
        if member.filename in found:
            raise TorchFileError(f"it holds {member.filename} twice")
        stored = member.compress_type == zipfile.ZIP_STORED and member.file_size == member.compress_size
        if not stored and not may_swell(member.filename):
            raise TorchFileError(f"{member.filename} is compressed, which PyTorch never does")
        found[member.filename] = member
    return found


def _open_legacy(content: mmap.mmap, is_known: Callable[[str], bool]) -> TorchFile:
    """Five pickles (magic, protocol, system, object, keys of storages), then each storage behind its length."""

    storages: dict[str, Storage] = {}

    def following() -> Any:
        return PickleMachine(content, is_known, storages).run()

    if following() != LEGACY_MAGIC or following() != _LEGACY_PROTOCOL:
        raise TorchFileError("it does not begin as a file of torch.save does")
    system = following()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise TorchFileError("its numbers are not little endian")
    held, keys = following(), following()
    if not isinstance(keys, list) or len(keys) > MOST_MEMBERS:
        raise TorchFileError("its list of storages is none")
    start = content.tell()
    places: dict[str, int] = {}

    def fetch(storage: Storage, dtype: str) -> bytearray:
        if not places:
            places.update(_legacy_places(content, start, keys, storages))
        first = places[storage.key]
        count = storage.count * BYTES[dtype]
        if first + count > len(content):
            raise TorchFileError(f"storage {storage.key} is cut short")
        return bytearray(content[first : first + count])

    return TorchFile(held, fetch, len(content))


def _legacy_places(
    content: mmap.mmap, start: int, keys: list[Any], storages: Mapping[str, Storage]
) -> dict[str, int]:
    places = {}
    for key in keys:
        (count,) = struct.unpack("<q", content[start : start + 8])
        storage = storages.get(str(key))
        if storage is None or storage.dtype is None or count != storage.count:
            raise TorchFileError(f"the length of storage {key} is not what is said of it")
        places[str(key)] = start + 8
        start += 8 + count * BYTES[storage.dtype]
    return places


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
