"""Slides with bytes changed, cut off, exchanged and zeroed: as they were, counted, or refused with a sentence.

Each slide is processed whole (classical detector, no embedder) in a process of its own with little memory and time.
What was truly lost is known from the tiles: of the level that the finest pass reads, those that hold discs and that an
independent decoder cannot decode any more.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
from support.damaged_slides import WRITERS, StoredTile, copy_slide, decode, shows_disc, stored_tiles

MOST_LOST = 0.5
FINEST_LEVEL = 2
LARGEST_BYTES = 8 * 1024**3
SECONDS = 120
KINDS = (
    "flip bits",
    "zero bytes",
    "cut off",
    "exchange tiles",
    "zero tiles",
    "empty tiles",
    "index bytes",
    "text bytes",
    "zero a share of the finest tiles",
)


@dataclass(frozen=True)
class Outcome:
    """How one mutated slide ended: equal, lossy, restated, refused, or what must not be."""

    kind: str
    ended: str
    message: str
    lost_share: float
    """As the slide's row states it."""
    true_loss: float
    objects: int


def mutate(slide: Path, rng: np.random.Generator) -> str:
    """Damage a slide's files; the kind of damage."""
    kind = KINDS[int(rng.integers(len(KINDS)))]
    folder = slide.with_suffix("")
    files = [slide] if slide.suffix == ".tif" else sorted(folder.iterdir())
    data = [file for file in files if file.suffix in (".dat", ".tif") and file.name != "Index.dat"]
    file = data[int(rng.integers(len(data)))]
    tiles = stored_tiles(slide)
    if kind == "cut off":
        os.truncate(file, int(rng.integers(file.stat().st_size)))
    elif kind in ("flip bits", "zero bytes"):
        _change(file, rng, int(rng.integers(1, 40)), 0 if kind == "zero bytes" else None, run=200)
    elif kind == "exchange tiles":
        one, other = (tiles[int(rng.integers(len(tiles)))] for _ in range(2))
        content = bytearray(one.index.read_bytes())
        for here, there in ((one.offset_at, other.offset_at), (one.length_at, other.length_at)):
            content[here : here + 4], content[there : there + 4] = (
                content[there : there + 4],
                content[here : here + 4],
            )
        one.index.write_bytes(content)
    elif kind in ("zero tiles", "empty tiles"):
        level = int(rng.integers(6))
        for tile in tiles:
            if tile.level <= level and rng.random() < 0.7:
                tile.zero() if kind == "zero tiles" else tile.empty()
    elif kind == "zero a share of the finest tiles":
        share = rng.random()
        for tile in tiles:
            if tile.level == FINEST_LEVEL and rng.random() < share:
                tile.zero()
    else:
        name = "Index.dat" if kind == "index bytes" else "Slidedat.ini"
        target = slide if slide.suffix == ".tif" else folder / name
        start = min(tile.offset for tile in tiles) + sum(tile.length for tile in tiles)
        first = start if slide.suffix == ".tif" else 0
        _change(
            target, rng, int(rng.integers(1, 4)), None, run=1, first=min(first, target.stat().st_size - 8)
        )
    return kind


def _change(
    file: Path, rng: np.random.Generator, count: int, value: int | None, *, run: int, first: int = 0
) -> None:
    content = bytearray(file.read_bytes())
    for _ in range(count):
        at = int(rng.integers(first, len(content)))
        for place in range(at, min(at + (run if value is not None else 1), len(content))):
            content[place] = int(rng.integers(256)) if value is None else value
    file.write_bytes(content)


def true_loss(sound: list[StoredTile], slide: Path) -> float:
    """Share of the finest pass's tiles with discs whose bytes no longer decode, or that are not listed."""
    try:
        after = {(tile.level, tile.x, tile.y): tile for tile in stored_tiles(slide)}
    except (KeyError, ValueError, IndexError):
        return 0.0  # its directory is damaged; what is left of it is for the reader to say
    shown = [tile for tile in sound if tile.level == FINEST_LEVEL and shows_disc(tile)]
    if not shown:
        return 0.0
    lost = 0
    for tile in shown:
        now = after.get((tile.level, tile.x, tile.y))
        lost += now is None or not now.length or decode(now) is None
    return lost / len(shown)


def process_in_child(slide: Path, place: Path) -> tuple[str, str, int, float]:
    """Class and message of what ended it (empty: committed), objects, and the lost share."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_AS, (LARGEST_BYTES, LARGEST_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(SECONDS)
        os.write(writer, json.dumps(_process(slide, place)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if not answer:
        return "CRASH", f"signal {status & 0x7F}", 0, 0.0
    error, message, objects, lost = json.loads(answer)
    return error, message, objects, lost


def _process(slide: Path, place: Path) -> tuple[str, str, int, float]:
    from processing.test_worker import run_one

    import fossilray.core.errors
    from fossilray.core.errors import SlideError

    try:
        store, outcome = run_one(
            slide, place, "embedder.weights=none", f"slides.max_lost_share={MOST_LOST}", "slides.mpp=0.25"
        )
    except Exception as error:  # noqa: BLE001  the test must hear of it, not of a broken pipe
        return f"UNCAUGHT {type(error).__name__}", str(error)[:300], 0, 0.0
    if outcome.failure is not None:
        raised = getattr(fossilray.core.errors, outcome.failure.error, None)
        known = isinstance(raised, type) and issubclass(raised, SlideError)
        name = outcome.failure.error if known else f"UNCAUGHT {outcome.failure.error}"
        return name, outcome.failure.message[:300], 0, 0.0
    row = store.summaries()[0]
    return "", "", row.objects, float(getattr(row, "lost_share", None) or 0.0)


def fuzz(place: Path, *, suffix: str, count: int, seed: int) -> Iterator[Outcome]:
    """Outcomes of `count` mutated slides."""
    sound = WRITERS[suffix](place / f"sound{suffix}", size=1536, objects=20)
    tiles = stored_tiles(sound)
    _, _, whole, _ = process_in_child(sound, place / "whole")
    assert whole > 0
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        slide = copy_slide(sound, place / str(number))
        kind = mutate(slide, rng)
        error, message, objects, lost = process_in_child(slide, place / str(number) / "run")
        truth = true_loss(tiles, slide) if not error else 0.0
        if error:
            ended = error if error.startswith(("CRASH", "UNCAUGHT")) else "refused"
        elif truth > MOST_LOST:
            ended = f"COMMITTED though {truth:.0%} was lost"
        elif lost:
            ended = "lossy"
        else:
            ended = "equal" if objects == whole else "restated"
        shutil.rmtree(place / str(number))
        yield Outcome(kind, ended, f"seed {seed} number {number}: {message}", lost, truth, objects)


def check(suffix: str, place: Path, *, count: int, seed: int) -> None:
    """Run as a program: processes are forked from one that has imported everything and started no thread."""
    answer = subprocess.run(
        [sys.executable, __file__, suffix, str(count), str(seed), str(place)],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    outcomes = [Outcome(**json.loads(line)) for line in answer.stdout.splitlines()]
    assert len(outcomes) == count
    wrong = [one for one in outcomes if one.ended not in ("equal", "lossy", "restated", "refused")]
    assert not wrong
    assert all(one.lost_share <= MOST_LOST for one in outcomes)


@pytest.mark.parametrize("suffix", WRITERS)
def test_mutated_slides_are_as_they_were_or_counted_or_refused(suffix: str, tmp_path: Path) -> None:
    check(suffix, tmp_path, count=8, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("seed", range(2, 6))
def test_hundreds_of_mutated_slides_are_as_they_were_or_counted_or_refused(
    suffix: str, seed: int, tmp_path: Path
) -> None:
    check(suffix, tmp_path, count=250, seed=seed)


def main() -> None:
    """A line of JSON for each slide, counts on stderr: SUFFIX COUNT SEED FOLDER."""
    import processing.test_worker  # noqa: F401  imported once, before the forks
    import torch  # noqa: F401

    suffix, count, seed, folder = sys.argv[1:]
    outcomes = []
    for one in fuzz(Path(folder), suffix=suffix, count=int(count), seed=int(seed)):
        outcomes.append(one)
        print(json.dumps(asdict(one)), flush=True)
    for ended, number in Counter(one.ended.split(" though")[0] for one in outcomes).most_common():
        print(f"{number:6} {ended}", file=sys.stderr)


if __name__ == "__main__":
    main()
