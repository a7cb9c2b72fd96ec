"""JSON with bounds on size, depth and numbers; JSON objects as dataclasses with checked types."""

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

MAX_JSON_BYTES = 512 * 2**20
"""The largest JSON file of fossilray, that of a dataset of 150,000 slides, has 20 MB."""

MAX_JSON_DEPTH = 64
"""Levels of objects and lists; no file of fossilray has more than 8."""

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NO_BRACKETS = bytes(sorted(set(range(256)) - set(b"[]{}")))


def parse_json(content: bytes | str, role: FileRole) -> Any:
    """Parse a JSON text (UTF-8).

    Raises:
        role.error: it is not JSON, has more than MAX_JSON_BYTES or MAX_JSON_DEPTH levels, repeats a key in an object,
            or contains a number that is not finite or beyond 64 bits.
    """
    encoded = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    if len(encoded) > MAX_JSON_BYTES:
        raise role.damaged(f"it has {len(encoded):,} bytes, more than {MAX_JSON_BYTES:,}")
    if not encoded.strip():
        raise role.damaged("it is empty")
    depth = _depth(encoded)
    if depth > MAX_JSON_DEPTH:
        raise role.damaged(f"its objects and lists are {depth:,} deep, more than {MAX_JSON_DEPTH}")
    try:
        return json.loads(
            encoded.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=_refuse_constant,
        )
    # RecursionError: `_depth` may miss brackets in text that is not JSON.
    except (ValueError, RecursionError) as error:
        raise role.damaged(f"it is not JSON ({error})") from None


def parse_record(kind: type[Record], content: bytes | str, role: FileRole) -> Record:
    """Parse a JSON object as the dataclass `kind`.

    Raises:
        role.error: a field is missing, unknown, or of another type.
    """
    return build_record(kind, parse_json(content, role), role)


def build_record(kind: type[Record], stated: object, role: FileRole) -> Record:
    """Build the dataclass `kind` from a parsed JSON object.

    Raises:
        role.error: a field is missing, unknown, or of another type.
    """
    from pydantic import ValidationError

    if not isinstance(stated, Mapping):
        raise role.damaged(f"it holds a {type(stated).__name__} where fields were expected")
    try:
        _refuse_unknown(kind, stated)
        # Strict validation refuses a text for a number; from JSON it still accepts a list for a tuple.
        plain = json.dumps(stated, ensure_ascii=False).encode("utf-8", "replace")
        record: Record = _adapter(kind).validate_json(plain, strict=True)
        _check_moments(record)
        return record
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in fault["loc"])
        value = "" if fault["type"] == "missing" else f", not {fault['input']!r:.60}"
        raise role.damaged(f"{field}: {fault['msg']}{value}") from None
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise role.damaged(error) from None


_adapters: dict[type, TypeAdapter[Any]] = {}


def _adapter(kind: type[Record]) -> TypeAdapter[Record]:
    """The validator of a dataclass, cached: making one takes 1,000 times as long as using it."""
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
    """Maximum number of brackets that are open at once, outside strings."""
    depth = deepest = 0
    for bracket in _STRING.sub(b"", encoded).translate(None, _NO_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has {twice!r:.60} twice")
    return fields


def _whole(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{text:.40} is beyond 64 bits")
    return number


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text:.40} is not a finite number")
    return number


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
