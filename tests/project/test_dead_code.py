"""Code that nothing uses is deleted: vulture over the package, the pipelines and the benchmarks."""

from __future__ import annotations

import re
from pathlib import Path

from vulture import Vulture

ROOT = Path(__file__).parents[2]
CALLED_BY_LIBRARIES = {
    "model_config",  # pydantic
    "__getattr__",  # the interpreter, of a module
    "__dir__",
    *("format_help", "format_options", "format_commands", "collect_usage_pieces"),  # typer
    *("readinto", "truncate", "writable", "seekable"),  # io
    *(
        "retries",
        "niter",
        "sel",
        "max_det",
        "intra_op_num_threads",
        "log_severity_level",
    ),  # s3fs, FAISS, networks
    *("maxdict", "maxlevel", "maxlist", "maxlong", "maxtuple"),  # reprlib
    "enable_progress_bars",  # ray.data
    "freeze_panes",  # openpyxl
    *("held_objects", "held_slides", "top_level", "previous", "is_small", "is_present"),  # pages, in JSON
}
FIELDS_ON_DISK = {
    *("seconds_fetch", "seconds_embed", "finished_at", "pass_um_per_px", "fossilray", "failed_crops"),
    *("forgiven_at", "spot_per_hour", "median_score", "above_half", "max_taxa", "wells_left_out"),
    *("site_kind", "sieve_um"),
    *("ray_s", "actors_s", "models_s", "first_slide_s", "first_commit_s"),
}
"""Fields of records that are written by `asdict`, or read by name from a file of the package."""
USED_BY_TESTS = {"ArrayPixels", "objects_glob"}
"""Pixels and paths for tests and for users' own scripts."""


def test_nothing_is_defined_that_nothing_uses() -> None:
    templates = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "fossilray").rglob("*.j2"))
    in_templates = set(re.findall(r"\w+", " ".join(re.findall(r"\{[{%].*?[%}]\}", templates, re.DOTALL))))
    vulture = Vulture(
        ignore_names=sorted(CALLED_BY_LIBRARIES | FIELDS_ON_DISK | USED_BY_TESTS),
        ignore_decorators=[
            "@field_validator",
            "@model_validator",
            "@app.command",
            "@*.command",
            "@*.callback",
            "@router.*",
            "@*_router.*",
        ],
    )
    vulture.scavenge([str(ROOT / name) for name in ("fossilray", "pipelines", "benchmarks")])
    unused = [
        f"{Path(item.filename).relative_to(ROOT)}:{item.first_lineno} {item.name}"
        for item in vulture.get_unused_code(min_confidence=60)
        if item.name not in in_templates
    ]
    assert not unused
