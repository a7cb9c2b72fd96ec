"""JSON with bounds on size, depth and numbers, and JSON objects as records whose types are checked."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from fossilray.core.formats.file_role import FileRole

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Record = TypeVar("Record")

MOST_BYTES = 512 * 2**20
"""Far above what a dataset of 150,000 slides states of itself, 20 MB."""

MOST_DEPTH = 64
"""Objects and lists inside each other; no file of fossilray has more than 8."""

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NO_BRACKETS = bytes(sorted(set(range(256)) - set(b"[]{}")))


def parse_json(content: bytes | str, role: FileRole) -> Any:
    """The value in a JSON text (UTF-8).

    Refused beside what is no JSON: more than MOST_BYTES, more than MOST_DEPTH levels, a key that an object has twice,
    and numbers that are not finite or beyond 64 bits.

    Raises:
        role.error: it is refused.
    """
    encoded = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    if len(encoded) > MOST_BYTES:
        raise role.damaged(f"it has {len(encoded):,} bytes, more than {MOST_BYTES:,}")
    if not encoded.strip():
        raise role.damaged("it is empty")
    depth = _depth(encoded)
    if depth > MOST_DEPTH:
        raise role.damaged(f"its objects and lists are {depth:,} deep, more than {MOST_DEPTH}")
    try:
        return json.loads(
            encoded.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=_refuse_constant,
        )
    # RecursionError: text that is no JSON may hide its brackets from `_depth`.
    except (ValueError, RecursionError) as error:
        raise role.damaged(f"it is not JSON ({error})") from None


def parse_record(kind: type[Record], content: bytes | str, role: FileRole) -> Record:
    """The dataclass `kind` from a JSON object that has its fields, no others, and values of their types.

    Raises:
        role.error: it has not.
    """
    return build_record(kind, parse_json(content, role), role)


def build_record(kind: type[Record], stated: object, role: FileRole) -> Record:
    """The same from an object that was parsed already.

    Raises:
        role.error: a field is missing, unknown, or of another type.
    """
    from pydantic import ValidationError

    if not isinstance(stated, Mapping):
        raise role.damaged(f"it holds a {type(stated).__name__} where fields were expected")
    try:
        _refuse_unknown(kind, stated)
        # Strict takes no text for a number; as JSON it still takes a list for a tuple.
        plain = json.dumps(stated, ensure_ascii=False).encode("utf-8", "replace")
        record: Record = _adapter(kind).validate_json(plain, strict=True)
        _check_moments(record)
        return record
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        found = "" if fault["type"] == "missing" else f", not {fault['input']!r:.60}"
        raise role.damaged(f"{place}: {fault['msg']}{found}") from None
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise role.damaged(error) from None


_adapters: dict[type, TypeAdapter[Any]] = {}


def _adapter(kind: type[Record]) -> TypeAdapter[Record]:
    """Made once for each kind, which takes 1,000 times as long as its use."""
    from pydantic import TypeAdapter

    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def _refuse_unknown(kind: type, stated: Mapping[str, Any]) -> None:
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(map(str, stated.keys() - known)):
        raise ValueError(f"it has the field {unknown[0]!r:.60}, which this fossilray does not know")


def _check_moments(record: object) -> None:
    for name, value in vars(record).items():
        if name.endswith("_at") and isinstance(value, str) and value:
            try:
                datetime.fromisoformat(value)
            except ValueError:
                raise ValueError(f"{name} is {value!r:.60}, not a time in ISO 8601") from None


def _depth(encoded: bytes) -> int:
    """The most brackets that are open at once, strings left out."""
    depth = deepest = 0
    for sign in _STRING.sub(b"", encoded).translate(None, _NO_BRACKETS):
        depth += 1 if sign in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has {twice!r:.60} twice")
    return found


def _whole(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{text:.40} is beyond 64 bits")
    return number


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text:.40} is no finite number")
    return number


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")
