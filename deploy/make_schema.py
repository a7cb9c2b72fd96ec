"""Write deploy/schema/kubernetes.json: what the API server would accept of the kinds that deploy/kubernetes uses.

    python deploy/make_schema.py --core FOLDER ray.io_rayclusters.yaml ray.io_rayjobs.yaml > kubernetes.json

The files are KubeRay's CustomResourceDefinitions (Apache-2.0; helm-chart/kuberay-operator/crds of its release), FOLDER
a set of Kubernetes' own schemas with local references (Apache-2.0; in the wheel `kubernetes-validate` from PyPI:
kubernetes_validate/kubernetes-json-schema/v1.*-local-strict). Descriptions are left out, and a part that occurs often
(a pod's template stands in the definitions five times) is written once: 2.3 MB of YAML become a tenth of it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

CORE = (
    "namespace-v1",
    "configmap-v1",
    "serviceaccount-v1",
    "networkpolicy-networking-v1",
    "poddisruptionbudget-policy-v1",
)
VERSION = "v1"
"""Of KubeRay's resources; older ones are served too, but nothing here uses them."""
KEPT = (
    "type", "enum", "required", "pattern", "format", "minimum", "maximum", "minItems", "minLength", "maxLength",
    "nullable", "x-kubernetes-list-map-keys",
)  # fmt: skip
SHARED_BYTES = 120
"""Parts shorter than this are repeated rather than referred to."""

Schema = dict[str, Any]


def main() -> None:
    """Write the schema to stdout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("crds", nargs="+", type=Path)
    parser.add_argument("--core", type=Path, required=True)
    given = parser.parse_args()
    definitions = json.loads((given.core / "_definitions.json").read_text(encoding="utf-8"))["$defs"]
    kinds = {}
    for name in CORE:
        schema = _inlined(json.loads((given.core / f"{name}.json").read_text(encoding="utf-8")), definitions)
        [group] = schema["x-kubernetes-group-version-kind"]
        api = "/".join(filter(None, (group["group"], group["version"])))
        kinds[f"{api} {group['kind']}"] = _structural(schema)
    metadata = _structural(
        _inlined(definitions["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"], definitions)
    )
    for path in given.crds:
        crd = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]
        [version] = [version for version in crd["versions"] if version["name"] == VERSION]
        schema = _structural(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = metadata
        schema["properties"].pop("status", None)
        kinds[f"{crd['group']}/{VERSION} {crd['names']['kind']}"] = schema
    print(_written(kinds, source=[*sorted(path.name for path in given.crds), given.core.name]))


def _structural(schema: Schema) -> Schema:
    """The part that decides, as JSON Schema: unknown fields are refused unless the definition keeps them."""
    kept = {name: schema[name] for name in KEPT if name in schema}
    if isinstance(kept.get("type"), list):
        # Kubernetes takes null for absent; in a file it is a mistake.
        [kept["type"]] = [name for name in kept["type"] if name != "null"]
    if "anyOf" in schema:  # int-or-string, and nothing else in these definitions
        kept["anyOf"] = [_structural(choice) for choice in schema["anyOf"]]
    if schema.get("format") == "int-or-string":
        kept.pop("type"), kept.pop("format")
        kept["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if "items" in schema:
        kept["items"] = _structural(schema["items"])
    fields = schema.get("properties")
    if fields:
        kept["properties"] = {name: _structural(field) for name, field in fields.items()}
        # The server fills in defaults before it checks required fields.
        kept["required"] = [name for name in schema.get("required", []) if "default" not in fields[name]]
        if schema.get("additionalProperties") in (None, False):
            kept["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields", False))
    if isinstance(schema.get("additionalProperties"), dict):
        kept["additionalProperties"] = _structural(schema["additionalProperties"])
    if not kept.get("required", True):
        del kept["required"]
    return kept


def _inlined(schema: Any, definitions: Schema) -> Any:
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(part, definitions) for name, part in schema.items()}


def _written(kinds: dict[str, Schema], *, source: list[str]) -> str:
    """JSON with one definition a line, each part that occurs twice written once under its digest."""
    seen: Counter[str] = Counter()
    for schema in kinds.values():
        _count(schema, seen)
    definitions: dict[str, str] = {}
    lines = [
        f"  {json.dumps(kind)}: {_text(_shared(schema, seen, definitions))}" for kind, schema in kinds.items()
    ]
    parts = [f"  {json.dumps(name)}: {text}" for name, text in sorted(definitions.items())]
    note = "Written by deploy/make_schema.py from KubeRay's and Kubernetes' definitions (Apache-2.0)."
    head = json.dumps({"note": note, "source": source})[1:-1]
    return f'{{{head},\n"kinds": {{\n' + ",\n".join(lines) + '\n},\n"$defs": {\n' + ",\n".join(parts) + "\n}}"


def _count(schema: Any, seen: Counter[str]) -> None:
    if isinstance(schema, dict):
        text = _text(schema)
        seen[text] += 1
        if seen[text] > 1:  # what is inside is counted with its first occurrence
            return
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _count(part, seen)


def _shared(schema: Any, seen: Counter[str], definitions: dict[str, str], *, is_schema: bool = True) -> Any:
    """The schema with references in place of what occurs more than once."""
    if isinstance(schema, list):
        return [_shared(part, seen, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    text = _text(schema)
    # Under `properties` stand names of fields, where a reference would be taken for a field.
    inner = {
        name: _shared(part, seen, definitions, is_schema=not (is_schema and name == "properties"))
        for name, part in schema.items()
    }
    if not is_schema or seen[text] < 2 or len(text) < SHARED_BYTES:
        return inner
    name = hashlib.sha256(text.encode()).hexdigest()[:10]
    definitions[name] = _text(inner)
    return {"$ref": f"#/$defs/{name}"}


def _text(schema: Any) -> str:
    return json.dumps(schema, sort_keys=True, separators=(",", ":"))


if __name__ == "__main__":
    sys.exit(main())
