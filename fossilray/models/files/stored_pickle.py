"""A pickle of torch.save followed by hand: nothing that it names is imported or called.

A pickle is a program for a machine with a stack. Here only the instructions are followed that build plain values; an
object of any class becomes a `Stored` that keeps what would have gone into it, a tensor a `TensorRecord` that says
where its numbers lie.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

MOST_INSTRUCTIONS = 2_000_000
"""Of a pickle; that of the largest YOLO (YOLOv9e) has 191,098."""
MOST_DIMENSIONS = 16
LONGEST_INTEGER = 2**63
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The number that files from before PyTorch 1.6 begin with."""

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
    """The file is none of torch.save, damaged, or claims more than it holds; the text says what was found."""


class ForeignName(TorchFileError):
    """The pickle names something that its reader does not know."""

    def __init__(self, name: str) -> None:
        super().__init__(f"it names {name}")
        self.name = name


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names, as text."""

    name: str


@dataclass(eq=False, repr=False)
class Stored:
    """An object of some class: what it would have been made from, and its fields."""

    name: str
    arguments: tuple[Any, ...] = ()
    fields: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Storage:
    """A run of numbers that tensors share."""

    key: str
    dtype: str | None
    """None: untyped; what uses it says."""
    count: int


@dataclass(frozen=True)
class TensorRecord:
    """Where the numbers of a tensor lie: in a storage, from an offset on, in steps, all counted in elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def is_within(self, count: int) -> bool:
        """Whether all its numbers are among the first so many of the storage."""
        steps = sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        return not self.numel or self.offset + steps < count


class PickleMachine:
    """Follows one pickle; every instruction has its arm in `_follow`, and what has none is refused."""

    def __init__(self, file: Any, is_known: Callable[[str], bool], storages: dict[str, Storage]) -> None:
        self._file = file
        self._is_known = is_known
        self._storages = storages
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self.tensors: list[TensorRecord] = []
        """All that the pickle describes, used or not."""

    def run(self) -> Any:
        """What the pickle leaves on the stack."""
        argument: Any
        for count, (operation, argument, _) in enumerate(pickletools.genops(self._file)):
            if count > MOST_INSTRUCTIONS:
                raise TorchFileError(f"its pickle has more than {MOST_INSTRUCTIONS:,} instructions")
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
                self._follow(operation.name, argument)
        if len(self._stack) != 1:
            raise TorchFileError(f"its pickle leaves {len(self._stack)} things behind")
        return self._stack.pop()

    def _follow(self, operation: str, argument: Any) -> None:
        stack = self._stack
        if operation in ("GLOBAL", "STACK_GLOBAL"):
            parts = self._pop(2) if argument is None else argument.split(" ", 1)
            stack.append(self._name(".".join(str(part) for part in parts)))
        elif operation in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            called, arguments, *_ = self._pop(3 if operation == "NEWOBJ_EX" else 2)
            stack.append(self._made(called, arguments))
        elif operation == "BUILD":
            (state,) = self._pop(1)
            self._set_state(stack[-1], state)
        elif operation == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        else:
            self._gather(operation)

    def _gather(self, operation: str) -> None:
        """Put what lies on the stack into containers."""
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
            (holder.fields if isinstance(holder, Stored) else holder).update(items)
        elif operation == "POP":
            stack.pop()
        elif operation == "DUP":
            stack.append(stack[-1])
        else:
            raise TorchFileError(f"its pickle uses {operation}, which torch.save does not write")

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count or any(one is _MARK for one in self._stack[-count:]):
            raise TorchFileError("its pickle takes more than it made")
        found = self._stack[-count:]
        del self._stack[-count:]
        return found

    def _since_mark(self) -> list[Any]:
        for place in range(len(self._stack) - 1, -1, -1):
            if self._stack[place] is _MARK:
                found = self._stack[place + 1 :]
                del self._stack[place:]
                return found
        raise TorchFileError("its pickle takes more than it made")

    def _value(self, argument: Any) -> Any:
        if isinstance(argument, int) and abs(argument) > LONGEST_INTEGER and argument != LEGACY_MAGIC:
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
            holder, Stored
        ):  # a class of its own that is filled like a list: nothing asks for it
            raise TorchFileError(f"its pickle appends to a {type(holder).__name__}")

    def _made(self, called: Any, arguments: Any) -> Any:
        name = called.name if isinstance(called, Name) else ""
        if not isinstance(arguments, tuple):
            raise TorchFileError("its pickle calls with no arguments")
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
        return Stored(name, arguments)

    def _set_state(self, holder: Any, state: Any) -> None:
        if isinstance(holder, Stored):
            for part in state if isinstance(state, tuple) else (state,):
                if isinstance(part, dict):
                    holder.fields.update(part)
        elif not isinstance(holder, (dict, TensorRecord)):  # attributes of mappings and parameters: unused
            raise TorchFileError(f"its pickle gives fields to a {type(holder).__name__}")

    def _storage(self, stated: Any) -> Storage:
        if not isinstance(stated, tuple) or len(stated) not in (5, 6) or stated[0] != "storage":
            raise TorchFileError("it refers to something that is no storage")
        kind, key, count = stated[1], stated[2], stated[4]
        dtype = _storage_dtype(kind.name) if isinstance(kind, Name) else None
        if dtype is None or not isinstance(key, str) or not _is_count(count) or any(stated[5:]):
            raise TorchFileError(f"storage {key!r} is described in no way that is known")
        found = Storage(key, None if dtype == "untyped" else dtype, count)
        if self._storages.setdefault(key, found) != found:
            raise TorchFileError(f"storage {key} is described in two ways")
        return found


_OLD_MODULES = {"__builtin__.": "builtins.", "copy_reg.": "copyreg."}
"""Python 2's names, which protocol 2 writes."""
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
    """What a storage of this class holds; `untyped` where the tensor says; None for other names."""
    if name in ("torch.storage.UntypedStorage", "torch.UntypedStorage", "torch.storage._UntypedStorage"):
        return "untyped"
    kind = name.removeprefix("torch.").removeprefix("cuda.")
    return _DTYPES.get(kind.removesuffix("Storage")) if kind.endswith("Storage") else None


def _tensor_record(name: str, arguments: tuple[Any, ...]) -> TensorRecord:
    storage, offset, shape, stride = arguments[:4]
    dtype = storage.dtype if isinstance(storage, Storage) else None
    if name.endswith("_v3") and len(arguments) > 6 and isinstance(arguments[6], Name):
        dtype = arguments[6].name.removeprefix("torch.")
    sound = (
        isinstance(storage, Storage)
        and dtype in BYTES
        and _is_count(offset)
        and isinstance(shape, tuple)
        and isinstance(stride, tuple)
        and len(shape) == len(stride) <= MOST_DIMENSIONS
        and all(_is_count(one) for one in (*shape, *stride))
    )
    if not sound:
        raise TorchFileError("a tensor is described in no way that is known")
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
