"""Faults planted in a folder of slides: which are found, and that no sound slide is doubted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from support.cli_runner import invoke
from support.planted_lies import LIES, Planted, plant_archive

import fossilray

QUICK = ("embedder.weights=none", "workers.count=1")


def found_in(folder: Path, run: Path) -> dict[str, set[str]]:
    """Process a folder, and return the codes of doubts and the classes of errors by slide_id."""
    settings = [word for each in QUICK for word in ("--set", each)]
    done = invoke("process", folder, "--run", run, *settings)
    assert done.exit_code == 0, done.output
    found: dict[str, set[str]] = {}
    for sql in (
        "SELECT slide_id, unnest(doubts).code AS found FROM slides",
        "SELECT slide_id, error AS found FROM failures",
    ):
        for row in fossilray.query(run, sql).to_pylist():
            found.setdefault(row["slide_id"], set()).add(row["found"])
    return found


def confusion(planted: list[Planted], found: dict[str, set[str]]) -> Counter[tuple[str, str]]:
    """Count slides by planted fault and by what was found; `nothing` where nothing was."""
    return Counter((slide.kind, what) for slide in planted for what in found.get(slide.slide_id, {"nothing"}))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_planted_faults_are_found_and_sound_slides_are_not_doubted(tmp_path: Path) -> None:
    planted = plant_archive(tmp_path / "slides", sound=88, of_each=4)
    found = found_in(tmp_path / "slides", tmp_path / "run")
    for (kind, what), count in sorted(confusion(planted, found).items()):
        print(f"{kind:28} {what:24} {count:4}")
    seen = {slide.slide_id: found.get(slide.slide_id, set()) for slide in planted}
    missed = [
        (slide, seen[slide.slide_id]) for slide in planted if slide.expected.isdisjoint(seen[slide.slide_id])
    ]
    wrong = [
        (slide, seen[slide.slide_id])
        for slide in planted
        if seen[slide.slide_id] - slide.expected - slide.also
    ]
    assert not [each for each in missed if each[0].expected]
    assert not wrong
    assert {slide.kind for slide in planted} == {"sound", *LIES}
