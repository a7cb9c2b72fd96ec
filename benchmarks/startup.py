"""How long `import fossilray` and `fossilray --help` take, and how soon `fossilray process` has a slide in work.

python benchmarks/startup.py [--rounds 15]
python benchmarks/startup.py process [--rounds 5] [--against CHECKOUT] [--keep DIR]

Programs take turns, so that other work on the machine meets all of them; medians with the quarters around them.
`process` starts the command on two small slides with two workers on a Ray of their own and measures from the run
directory how far it is: run.json (the job is known and its weights are good), the first attempt (a worker has its
models and takes a slide), the first commit. `--against` runs another checkout of fossilray in turn with this one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
COMMAND = ["-c", "from fossilray.cli.main import main; main()"]
PROGRAMS = {
    "python -c pass": ["-c", "pass"],
    "import fossilray": ["-c", "import fossilray"],
    "fossilray --help": [*COMMAND, "--help"],
    "fossilray version": [*COMMAND, "version"],
}
SIGNS = {
    "run.json": "run.json",
    "first slide taken": "attempts/*/*.json",
    "first slide committed": "objects/*/*.parquet",
}
SIDE_PX = 2048


@app.callback(invoke_without_command=True)
def programs(context: typer.Context, rounds: int = 15) -> None:
    """Programs that do next to nothing."""
    if context.invoked_subcommand:
        return
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


@app.command()
def process(
    rounds: int = 5,
    against: Annotated[Path | None, typer.Option(help="Another checkout, run in turn with this one.")] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Folder for the slides, reused when they are there.")
    ] = None,
) -> None:
    """Seconds from the command to the first slide."""
    from fossilray.synthetic.archive import read_recipe, synthesise_archive

    here = Path(__file__).parent.parent
    checkouts = [here] if against is None else [against.resolve(), here]
    with tempfile.TemporaryDirectory(prefix="fossilray-startup-") as scratch:
        slides = (keep or Path(scratch)) / f"two-{SIDE_PX}"
        if read_recipe(slides) is None:
            synthesise_archive(slides, slides=2, size_px=SIDE_PX, form="mrxs", seed=1)
        seen: dict[Path, list[dict[str, float]]] = {checkout: [] for checkout in checkouts}
        for number in range(rounds + 1):
            for checkout in checkouts:
                times = signs(checkout, slides, Path(scratch) / f"run-{number}-{checkout.name}")
                if number:  # the first time compiles and reads from the disk
                    seen[checkout].append(times)
    for checkout in checkouts:
        print(f"{checkout}, {rounds} rounds")
        for sign in SIGNS:
            wall = [times[sign] for times in seen[checkout]]
            print(f"  {sign:22} {median(wall):6.2f} s  ({min(wall):.2f}-{max(wall):.2f})")


def run(arguments: Sequence[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one interpreter."""
    before_s, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - before_s, cpu_s


def signs(checkout: Path, slides: Path, run: Path) -> dict[str, float]:
    """Seconds from the start of `fossilray process` of that checkout until each sign was in its run directory."""
    program = [sys.executable, *COMMAND, "process", str(slides), "--run", str(run), "--workers", "2"]
    began_s = time.perf_counter()
    seen: dict[str, float] = {}
    with subprocess.Popen(
        program,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as command:
        while True:
            over = command.poll() is not None
            for sign, pattern in SIGNS.items():
                if sign not in seen and next(run.glob(pattern), None):
                    seen[sign] = time.perf_counter() - began_s
            if over:
                break
            time.sleep(0.01)
    if command.returncode or len(seen) < len(SIGNS):
        raise RuntimeError(f"fossilray process of {checkout} ended with {command.returncode}")
    return seen


if __name__ == "__main__":
    app()
