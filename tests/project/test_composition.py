"""Classes that are composed and never subclassed: runs, and logs of attempts."""

from __future__ import annotations

import ast

from support.static_checks import ROOT

NEVER_SUBCLASSED = {"RunStore", "AttemptLog"}
"""A run, derived results and an index each have an `AttemptLog`; a dataset is a `RunStore` that reads its tables."""


def test_no_class_subclasses_a_run_or_a_log_of_attempts() -> None:
    subclasses = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for folder in ("fossilray", "tests", "benchmarks", "pipelines", "docs")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and any(base_name(base) in NEVER_SUBCLASSED for base in node.bases)
    ]
    assert not subclasses


def base_name(base: ast.expr) -> str:
    return base.attr if isinstance(base, ast.Attribute) else ast.unparse(base)
