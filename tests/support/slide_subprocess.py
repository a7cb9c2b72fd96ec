"""Opens and reads slides, each in a process of its own with little memory and little time, and says how it went.

Run as a program with the paths as arguments: one line of JSON for each. Processes are forked from one that has
imported everything, so that a hundred slides take seconds.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

LARGEST_BYTES = 6 * 1024**3
"""Address space; a slide that makes a library ask for more kills its process."""
SECONDS = 20


@dataclass(frozen=True)
class Seen:
    """How opening and reading one slide ended."""

    error: str
    """Class of the error; empty if there was none."""
    message: str
    read: int
    unreadable: int
    """Regions."""
    peak_mb: float
    signal: int
    """What ended the process; 0 if nothing did."""


def look_at(*paths: Path) -> list[Seen]:
    """What became of each slide, in order."""
    answer = subprocess.run(
        [sys.executable, __file__, *map(str, paths)], stdout=subprocess.PIPE, check=True, text=True
    )
    return [Seen(**json.loads(line)) for line in answer.stdout.splitlines()]


def _look_in_child(path: Path) -> Seen:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_AS, (LARGEST_BYTES, LARGEST_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(SECONDS)
        os.write(writer, json.dumps(_open_and_read(path)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = json.loads(pipe.read() or b'["", "", 0, 0]')
    _, status, used = os.wait4(child, 0)
    return Seen(*told, peak_mb=used.ru_maxrss / 1024, signal=status & 0x7F)


def _open_and_read(path: Path) -> tuple[str, str, int, int]:
    from fossilray.core.errors import SlideError, UnreadableRegion
    from fossilray.slides.slide import open_slide

    read = unreadable = 0
    try:
        with open_slide(path, mpp=0.25) as slide:
            bounds = slide.info.bounds
            for level in range(len(slide.info.levels)):
                for x, y in ((bounds.x_min, bounds.y_min), (bounds.x_max - 300, bounds.y_max - 300)):
                    try:
                        slide.read(level, x, y, 300, 300)
                        read += 1
                    except UnreadableRegion:
                        unreadable += 1
            slide.overview(20.0)
            slide.thumbnail(64)
    except SlideError as error:
        return type(error).__name__, str(error), read, unreadable
    except Exception as error:  # noqa: BLE001  the tests must hear of it, not of a broken pipe
        return f"BUG {type(error).__name__}", str(error), read, unreadable
    return "", "", read, unreadable


def main() -> None:
    """A line for each slide named on the command line."""
    import fossilray.slides.slide  # noqa: F401  imported once, before the forks

    for name in sys.argv[1:]:
        print(json.dumps(asdict(_look_in_child(Path(name)))), flush=True)


if __name__ == "__main__":
    main()
