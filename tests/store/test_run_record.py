"""A run goes on with settings that change no result, and with no others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.run_fixtures import a_run

from fossilray.core.config import RunConfig, Section, document_config
from fossilray.core.errors import RunMismatch
from fossilray.store import RunStore

MAY_DIFFER = {
    "slides.source",
    "slides.access",
    "slides.scratch",
    "slides.scratch_gb",
    "slides.fetch_threads",
    "slides.max_gigapixels",
    "slides.max_objects",
    "slides.unique_scans",
    "slides.strict_doubts",
    "slides.read_threads",
    "slides.reader",
    "workers.count",
    "workers.device",
    "workers.cpus_per_worker",
    "workers.gpus_per_worker",
    "workers.accelerator",
    "workers.resources",
    "workers.placement",
    "workers.patience_minutes",
    "workers.max_deaths",
    "workers.max_tries",
    "workers.alike_slides",
    "workers.alike_share",
    "workers.retry_after_s",
    "workers.deadline_minutes",
    "workers.stall_minutes",
    "workers.memory_gb",
    "store.run",
    "store.endpoint_url",
    "store.region",
    "store.profile",
    "store.anonymous",
    "store.tries",
    "store.timeout_s",
    "store.patience_minutes",
    "store.single_writer",
    "watch.alarm_minutes",
    "watch.trace",
    "cost.per_gpu_hour",
    "cost.per_core_hour",
    "cost.currency",
}
"""Where slides and run lie and how they are reached, who works on them, who watches and what it costs.

All else decides results.
"""

ANOTHER: dict[str, Any] = {
    "slides.name_pattern": r"(?P<well>\d+)",
    "slides.source": "elsewhere",
    "slides.access": {"region": "eu-north-1"},
    "slides.scratch": "elsewhere",
    "slides.reader": "openslide",
    "slides.planes": "best",
    "slides.strict_doubts": ["mpp-implausible"],
    "slides.mpp": 0.5,
    "slides.mpp_override": 0.5,
    "tiling.tile_px": 1024,
    "detector.kind": "classical",
    "detector.output": "boxes",
    "detector.invert": False,
    "detector.passes": [{"um_per_px": 2.0, "largest_um": 100.0}],
    "detector.seen_at_px": 64,
    "crops.fit": "letterbox",
    "crops.encoding": "lossless",
    "embedder.architecture": "vit_tiny_patch16_224",
    "embedder.input_px": 96,
    "workers.count": 3,
    "workers.device": "cuda",
    "workers.accelerator": "L4",
    "workers.resources": {"scratch": 1.0},
    "workers.placement": "default",
    "workers.memory_gb": 4.0,
    "workers.precision": "float32",
    "store.run": "elsewhere",
    "store.endpoint_url": "http://localhost:9000",
    "store.region": "eu-north-1",
    "store.profile": "archive",
    "watch.trace": ["a-slide"],
    "cost.per_gpu_hour": 1.3,
    "cost.per_core_hour": 0.04,
    "cost.currency": "NOK",
}
"""A valid value other than the default, where none can be made of the default itself."""

DEFAULTS = {
    name: value
    for name, value, _ in document_config()
    # Another focus of crops needs another choice of planes, and has a test of its own.
    if not isinstance(value, Section) and name != "crops.focus"
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """A run that was started with the defaults."""
    started = RunStore.open(str(tmp_path_factory.mktemp("settings") / "run"))
    started.create_or_check(a_run(RunConfig()))
    return started


def test_every_field_is_known_to_change_results_or_not() -> None:
    assert DEFAULTS.keys() >= MAY_DIFFER
    for name in DEFAULTS:
        changed = a_run(with_others({name}))
        assert (changed.digest != a_run().digest) is (name not in MAY_DIFFER), name


def test_the_focus_of_crops_changes_results() -> None:
    sharpest = RunConfig.model_validate({"slides": {"planes": "best"}})
    extended = RunConfig.model_validate({"slides": {"planes": "best"}, "crops": {"focus": "extended"}})
    assert a_run(sharpest).digest != a_run(extended).digest


@settings(max_examples=60, deadline=None)
@given(changed=st.sets(st.sampled_from(sorted(DEFAULTS)), max_size=8))
def test_a_run_goes_on_unless_a_field_that_changes_results_differs(
    store: RunStore, changed: set[str]
) -> None:
    config = with_others(changed)
    decisive = sorted(changed - MAY_DIFFER)
    if not decisive:
        store.create_or_check(a_run(config))
        return
    with pytest.raises(RunMismatch) as caught:
        store.create_or_check(a_run(config))
    message = str(caught.value)
    for name in decisive:
        was, now = plain(RunConfig(), name), plain(config, name)
        assert f"{name}: recorded {was}, now requested {now}" in message
    for name in changed & MAY_DIFFER:
        assert f"{name}:" not in message


def test_a_new_size_of_the_crew_and_new_access_are_no_difference(store: RunStore) -> None:
    store.create_or_check(a_run(with_others(MAY_DIFFER)))


def test_other_weights_under_the_same_settings_are_a_difference(store: RunStore) -> None:
    with pytest.raises(RunMismatch, match=r"detector/best\.pt: recorded nothing, now requested"):
        store.create_or_check(a_run(RunConfig(), **{"detector/best.pt": "ab" * 32}))


def with_others(names: set[str]) -> RunConfig:
    """The defaults but for these fields."""
    tree: dict[str, Any] = {}
    for name in names:
        *sections, field = name.split(".")
        below = tree
        for section in sections:
            below = below.setdefault(section, {})
        below[field] = another(name)
    return RunConfig.model_validate(tree)


def another(name: str) -> Any:
    """A valid value that is not the default."""
    default = DEFAULTS[name]
    if name in ANOTHER:
        return ANOTHER[name]
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    if isinstance(default, float):
        return default / 2 or 0.5
    assert isinstance(default, str), f"give ANOTHER a valid value of {name}"
    return f"{default}-2"


def plain(config: RunConfig, name: str) -> str:
    """A field as run.json holds it."""
    value: Any = config.model_dump(mode="json")
    for part in name.split("."):
        value = value[part]
    # Left out at their defaults, so that runs of before these fields go on.
    is_left_out = (name, value) in (("slides.name_pattern", None), ("slides.planes", "middle"))
    return "nothing" if is_left_out else json.dumps(value, sort_keys=True)
