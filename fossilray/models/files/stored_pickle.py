"""Interpreter for pickles of torch.save that imports and calls nothing.

A pickle is a program for a stack machine. Only the instructions that build plain values are interpreted. An object of
any class becomes a `StoredObject` with its arguments and fields, a tensor becomes a `TensorRecord` with the location of
its values.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_MAX_INSTRUCTIONS = 2_000_000
"""Limit for a pickle; that of the largest YOLO (YOLOv9e) has 191,098 instructions."""
_MAX_DIMENSIONS = 16
_MAX_INTEGER = 2**63
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The first number of files written before PyTorch 1.6."""

_DTYPES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
}
BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
BYTES |= {"int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1}
_MAPPINGS = ("collections.OrderedDict", "collections.defaultdict", "collections.Counter")
_MARK = object()


class TorchFileError(ValueError):
    """The file was not written by torch.save, is damaged, or declares more than it holds; the text gives the reason."""


class ForeignName(TorchFileError):
    """The pickle names a class or function that its reader does not know."""

    def __init__(self, name: str) -> None:
        super().__init__(f"it names {name}")
        self.name = name


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names, as text."""

    name: str


@dataclass(eq=False, repr=False)
class StoredObject:
    """An object of a class: the arguments of its construction, and its fields."""

    name: str
    arguments: tuple[Any, ...] = ()
    fields: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Storage:
    """An array of values that tensors share."""

    key: str
    dtype: str | None
    """None for an untyped storage, whose tensors state the dtype."""
    count: int


@dataclass(frozen=True)
class TensorRecord:
    """Location of a tensor's values in a storage: offset and strides in elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def is_within(self, count: int) -> bool:
        """Return whether all values are among the first `count` elements of the storage."""
        steps = sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        return not self.numel or self.offset + steps < count


class PickleMachine:
    """Interprets one pickle; instructions without a branch in `_execute` and `_collect` are refused."""

    def __init__(self, file: Any, is_known: Callable[[str], bool], storages: dict[str, Storage]) -> None:
        self._file = file
        self._is_known = is_known
        self._storages = storages
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self.tensors: list[TensorRecord] = []
        """All tensors that the pickle describes, used or not."""

    def run(self) -> Any:
        """Return the object that the pickle leaves on the stack."""
        argument: Any
        for count, (operation, argument, _) in enumerate(pickletools.genops(self._file)):
            if count > _MAX_INSTRUCTIONS:
                raise TorchFileError(f"its pickle has more than {_MAX_INSTRUCTIONS:,} instructions")
            if operation.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[operation.name])
            elif operation.name in _VALUES:
                self._stack.append(self._value(argument))
            elif operation.name in _EMPTY:
                self._stack.append(_EMPTY[operation.name]())
            elif operation.name in _GETS:
                self._stack.append(self._memo[argument])
            elif operation.name in _PUTS:
                self._memo[len(self._memo) if argument is None else argument] = self._stack[-1]
            elif operation.name not in ("PROTO", "FRAME", "STOP"):
                self._execute(operation.name, argument)
        if len(self._stack) != 1:
            raise TorchFileError(f"its pickle leaves {len(self._stack)} objects on the stack")
        return self._stack.pop()

    def _execute(self, operation: str, argument: Any) -> None:
        stack = self._stack
        if operation in ("GLOBAL", "STACK_GLOBAL"):
            parts = self._pop(2) if argument is None else argument.split(" ", 1)
            stack.append(self._name(".".join(str(part) for part in parts)))
        elif operation in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            called, arguments, *_ = self._pop(3 if operation == "NEWOBJ_EX" else 2)
            stack.append(self._call(called, arguments))
        elif operation == "BUILD":
            (state,) = self._pop(1)
            self._set_state(stack[-1], state)
        elif operation == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        else:
            self._collect(operation)

    def _collect(self, operation: str) -> None:
        """Move values from the stack into containers."""
        stack = self._stack
        if operation in _TUPLES:
            stack.append(tuple(self._pop(_TUPLES[operation])))
        elif operation in _CONTAINERS:
            stack.append(_CONTAINERS[operation](self._since_mark()))
        elif operation in ("APPEND", "APPENDS", "ADDITEMS"):
            self._extend(self._pop(1) if operation == "APPEND" else self._since_mark())
        elif operation in ("SETITEM", "SETITEMS"):
            items = _pairs(self._pop(2) if operation == "SETITEM" else self._since_mark())
            holder = stack[-1]
            (holder.fields if isinstance(holder, StoredObject) else holder).update(items)
        elif operation == "POP":
            stack.pop()
        elif operation == "DUP":
            stack.append(stack[-1])
        else:
            raise TorchFileError(f"its pickle uses {operation}, which torch.save does not write")

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count or any(value is _MARK for value in self._stack[-count:]):
            raise TorchFileError("its pickle takes more from the stack than it put there")
        values = self._stack[-count:]
        del self._stack[-count:]
        return values

    def _since_mark(self) -> list[Any]:
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index] is _MARK:
                values = self._stack[index + 1 :]
                del self._stack[index:]
                return values
        raise TorchFileError("its pickle takes more from the stack than it put there")

    def _value(self, argument: Any) -> Any:
        if isinstance(argument, int) and abs(argument) > _MAX_INTEGER and argument != LEGACY_MAGIC:
            raise TorchFileError("it holds a number of more than 64 bits")
        return argument

    def _name(self, name: str) -> Name:
        for old, new in _OLD_MODULES.items():
            name = f"{new}{name.removeprefix(old)}" if name.startswith(old) else name
        if not (name in _TENSORS or _storage_dtype(name) or self._is_known(name)):
            raise ForeignName(name)
        return Name(name)

    def _extend(self, items: list[Any]) -> None:
        holder = self._stack[-1]
        if isinstance(holder, set):
            holder.update(items)
        elif isinstance(holder, list):
            holder.extend(items)
        elif not isinstance(
            holder, StoredObject
        ):  # an unknown class that is filled like a list; its items are unused
            raise TorchFileError(f"its pickle appends to a {type(holder).__name__}")

    def _call(self, called: Any, arguments: Any) -> Any:
        name = called.name if isinstance(called, Name) else ""
        if not isinstance(arguments, tuple):
            raise TorchFileError("its pickle calls a function without arguments")
        if name in _MAPPINGS:
            given = arguments[0] if arguments else ()
            return _pairs([part for pair in given for part in pair]) if isinstance(given, list) else {}
        if name == "builtins.set":
            return set(*arguments[:1])
        if name.startswith("torch._utils._rebuild_parameter"):
            return arguments[0]
        if name in _TENSORS:
            self.tensors.append(_tensor_record(name, arguments))
            return self.tensors[-1]
        return StoredObject(name, arguments)

    def _set_state(self, holder: Any, state: Any) -> None:
        if isinstance(holder, StoredObject):
            for part in state if isinstance(state, tuple) else (state,):
                if isinstance(part, dict):
                    holder.fields.update(part)
        elif not isinstance(holder, (dict, TensorRecord)):  # attributes of mappings and parameters: unused
            raise TorchFileError(f"its pickle gives fields to a {type(holder).__name__}")

    def _storage(self, reference: Any) -> Storage:
        if not isinstance(reference, tuple) or len(reference) not in (5, 6) or reference[0] != "storage":
            raise TorchFileError("it refers to an object that is not a storage")
        kind, key, count = reference[1], reference[2], reference[4]
        dtype = _storage_dtype(kind.name) if isinstance(kind, Name) else None
        if dtype is None or not isinstance(key, str) or not _is_count(count) or any(reference[5:]):
            raise TorchFileError(f"storage {key!r} has an unknown description")
        storage = Storage(key, None if dtype == "untyped" else dtype, count)
        if self._storages.setdefault(key, storage) != storage:
            raise TorchFileError(f"storage {key} has two different descriptions")
        return storage


_OLD_MODULES = {"__builtin__.": "builtins.", "copy_reg.": "copyreg."}
"""Names of Python 2, which protocol 2 writes."""
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK}
_EMPTY: Mapping[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
}
_VALUES = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINSTRING", "SHORT_BINSTRING"}
    | {
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    }
)
_GETS = frozenset({"BINGET", "LONG_BINGET"})
_PUTS = frozenset({"BINPUT", "LONG_BINPUT", "MEMOIZE"})
_TENSORS = frozenset(
    {
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
    }
)


def _pairs(flat: list[Any]) -> dict[Any, Any]:
    if len(flat) % 2:
        raise TorchFileError("its pickle has a key without a value")
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _storage_dtype(name: str) -> str | None:
    """Return the dtype of a storage class; `untyped` if its tensors state it; None for other names."""
    if name in ("torch.storage.UntypedStorage", "torch.UntypedStorage", "torch.storage._UntypedStorage"):
        return "untyped"
    kind = name.removeprefix("torch.").removeprefix("cuda.")
    return _DTYPES.get(kind.removesuffix("Storage")) if kind.endswith("Storage") else None


def _tensor_record(name: str, arguments: tuple[Any, ...]) -> TensorRecord:
    storage, offset, shape, stride = arguments[:4]
    dtype = storage.dtype if isinstance(storage, Storage) else None
    if name.endswith("_v3") and len(arguments) > 6 and isinstance(arguments[6], Name):
        dtype = arguments[6].name.removeprefix("torch.")
    is_valid = (
        isinstance(storage, Storage)
        and dtype in BYTES
        and _is_count(offset)
        and isinstance(shape, tuple)
        and isinstance(stride, tuple)
        and len(shape) == len(stride) <= _MAX_DIMENSIONS
        and all(_is_count(number) for number in (*shape, *stride))
    )
    if not is_valid:
        raise TorchFileError("a tensor has an unknown description")
    return TensorRecord(storage, str(dtype), offset, shape, stride)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**40


_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_CONTAINERS: Mapping[str, Callable[[list[Any]], Any]] = {
    "TUPLE": tuple,
    "LIST": list,
    "DICT": _pairs,
    "FROZENSET": frozenset,
}
