"""How long `import fossilray` and `fossilray --help` take, beside an interpreter that does nothing.

python benchmarks/startup.py [--rounds 15]

The programs take turns, so that other work on the machine meets all of them; medians with the quarters around them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from statistics import median, quantiles

import typer

PROGRAMS = {
    "python -c pass": ["-c", "pass"],
    "import fossilray": ["-c", "import fossilray"],
    "fossilray --help": ["-c", "from fossilray.cli import main; main()", "--help"],
    "fossilray version": ["-c", "from fossilray.cli import main; main()", "version"],
}


def main(rounds: int = 15) -> None:
    """Measure and print."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in PROGRAMS}
    for arguments in PROGRAMS.values():
        run(arguments)  # the first time compiles and reads from the disk
    for _ in range(rounds):
        for name, arguments in PROGRAMS.items():
            taken[name].append(run(arguments))
    print(f"{'':18} {'wall s':>8} {'quarters':>15} {'CPU s':>8}")
    for name, times in taken.items():
        wall, cpu = zip(*times, strict=True)
        low, _, high = quantiles(wall, n=4)
        print(f"{name:18} {median(wall):8.3f} {low:7.3f}-{high:.3f} {median(cpu):10.3f}")


def run(arguments: Sequence[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one interpreter."""
    before_s, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - before_s, cpu_s


if __name__ == "__main__":
    typer.run(main)
