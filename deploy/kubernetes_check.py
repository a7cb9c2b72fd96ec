"""Mistakes in rendered manifests, found before a cluster refuses them, or long after it has accepted them.

    kubectl kustomize deploy/kubernetes/overlays/eks-job | python deploy/kubernetes_check.py

First against schema/kubernetes.json, as strictly as the API server, then by kubernetes_rules.py and pod_rules.py: what
the server takes and what would yet not run, not be safe, or cost too much. One line a fault; exit code 1 if there is
any.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_rules
import yaml
from pod_rules import Manifest, name_of

SCHEMA = Path(__file__).parent / "schema" / "kubernetes.json"


def main() -> int:
    """Print the faults of the manifests on stdin; exit code 1 if there is any."""
    manifests = [manifest for manifest in yaml.safe_load_all(sys.stdin) if manifest]
    faults = check(manifests)
    print("\n".join(faults) if faults else f"{len(manifests)} manifests, nothing to object to")
    return 1 if faults else 0


def check(manifests: list[Manifest]) -> list[str]:
    """Every fault as one sentence that begins with the object and the field; rules only once the schema is met."""
    faults = [fault for manifest in manifests for fault in against_schema(manifest)]
    return faults or list(kubernetes_rules.faults(manifests))


def against_schema(manifest: Manifest) -> Iterator[str]:
    """What the API server would refuse: unknown fields, wrong types, missing fields, repeated keys of a list."""
    kind = f"{manifest.get('apiVersion')} {manifest.get('kind')}"
    validator = _validators().get(kind)
    if validator is None:
        yield f"{kind}: not a kind that schema/kubernetes.json knows; add it with deploy/make_schema.py"
        return
    for error in sorted(validator.iter_errors(manifest), key=lambda error: error.json_path):
        yield f"{name_of(manifest)}: {error.json_path.removeprefix('$.')}: {error.message}"


@cache
def _validators() -> dict[str, Any]:
    written = json.loads(SCHEMA.read_text(encoding="utf-8"))
    strict = jsonschema.validators.extend(
        jsonschema.Draft202012Validator, {"x-kubernetes-list-map-keys": _keys_are_unique}
    )
    return {kind: strict({**schema, "$defs": written["$defs"]}) for kind, schema in written["kinds"].items()}


def _keys_are_unique(
    validator: Any, keys: list[str], items: Any, schema: Manifest
) -> Iterator[jsonschema.ValidationError]:
    seen = set()
    for item in items if isinstance(items, list) else ():
        key = tuple(str(item.get(name)) for name in keys)
        if key in seen:
            yield jsonschema.ValidationError(f"{' '.join(key)} stands there twice")
        seen.add(key)


if __name__ == "__main__":
    sys.exit(main())
