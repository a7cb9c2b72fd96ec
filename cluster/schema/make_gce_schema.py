"""Write gce-instance.json: the fields of a Compute Engine instance, from Google's own description of its API.

    pip install google-api-python-client
    python cluster/schema/make_gce_schema.py

The description (compute.v1, Apache License 2.0) comes with that package; field names, types and enumerations are kept.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

TARGET = Path(__file__).with_name("gce-instance.json")
WRITTEN_AS_TEXT = ("int64", "uint64")
"""Numbers that JSON cannot hold; Google takes them as text and as numbers."""


def main() -> None:
    """Write the schema beside this script."""
    described = json.loads(
        files("googleapiclient").joinpath("discovery_cache/documents/compute.v1.json").read_text("utf-8")
    )
    definitions: dict[str, Any] = {}
    _define("Instance", described["schemas"], definitions)
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "description": f"compute.v1 Instance, revision {described['revision']}, by make_gce_schema.py",
        "$ref": "#/definitions/Instance",
        "definitions": dict(sorted(definitions.items())),
    }
    TARGET.write_text(json.dumps(schema, indent=None, separators=(",", ":")) + "\n", encoding="utf-8")


def _define(name: str, described: dict[str, Any], definitions: dict[str, Any]) -> None:
    if name not in definitions:
        definitions[name] = {}
        definitions[name] = _schema(described[name], described, definitions)


def _schema(part: dict[str, Any], described: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in part:
        _define(part["$ref"], described, definitions)
        return {"$ref": f"#/definitions/{part['$ref']}"}
    schema: dict[str, Any] = {"type": part["type"]} if part.get("type") not in (None, "any") else {}
    if part.get("format") in WRITTEN_AS_TEXT:
        schema["type"] = ["string", "integer"]
    if "enum" in part:
        schema["enum"] = part["enum"]
    if "items" in part:
        schema["items"] = _schema(part["items"], described, definitions)
    if "properties" in part:
        schema["additionalProperties"] = False
        # resourceStatus is part of Google's responses and of no request.
        schema["properties"] = {
            name: _schema(value, described, definitions)
            for name, value in sorted(part["properties"].items())
            if name != "resourceStatus"
        }
    elif "additionalProperties" in part:
        schema["additionalProperties"] = _schema(part["additionalProperties"], described, definitions)
    return schema


if __name__ == "__main__":
    main()
