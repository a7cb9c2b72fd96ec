"""The base of records that are written once, as JSON: of a run, of derived results, of a dataset and of an index."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Self, cast

from fossilray.core.formats import FileRole, parse_record


class JsonRecord:
    """A frozen dataclass that is stored as one JSON object, by the names of its fields."""

    def to_json(self) -> bytes:
        """Encode the record as an indented JSON object with a newline at its end."""
        return json.dumps(self._fields(), indent=2, ensure_ascii=False).encode() + b"\n"

    def _fields(self) -> dict[str, Any]:
        return asdict(cast("Any", self))

    @classmethod
    def parse(cls, text: bytes, role: FileRole) -> Self:
        """Decode a record, and check the types of its fields.

        Raises:
            DamagedFile: the text is not such a record.
        """
        return parse_record(cls, text, role)

    def identity(self) -> dict[str, Any]:
        """The fields that decide results: all but `created_at`. Records with equal ones give equal results."""
        fields = self._fields()
        fields.pop("created_at", None)
        return fields

    @property
    def digest(self) -> str:
        """sha256 of `identity`."""
        plain = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(plain.encode()).hexdigest()

    def differences(self, requested: Self) -> list[str]:
        """Return one clause for each field of `identity` that differs, with both values; empty if results are equal."""
        have, want = flatten_fields(self.identity()), flatten_fields(requested.identity())
        return [
            f"{name}: recorded {_plain(have, name):.300}, now requested {_plain(want, name):.300}"
            for name in sorted(have.keys() | want.keys())
            if _plain(have, name) != _plain(want, name)
        ]


def flatten_fields(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields by their dotted names, such as `detector.confidence`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten_fields(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _plain(flat: Mapping[str, Any], name: str) -> str:
    # Compared as JSON, so that a tuple equals the list that is read back.
    return json.dumps(flat[name], sort_keys=True) if name in flat else "nothing"
