"""Each file operation of a command broken in turn, and the same command given again: a process of its own.

Started as `python fault_points.py POINTS SEED SCENARIO…` with fault_points.c preloaded; prints JSON reports. A child is
forked for every try, so that the libraries are loaded once. POINTS: how many (operation, fault) to try; 0: all.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import importlib
import io
import json
import mmap
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
BEFORE, AFTER, REFUSE = 1, 2, 3
FAULTS = [
    ("SIGKILL before", BEFORE, 0),
    ("SIGKILL after", AFTER, 0),
    *(
        (errno.errorcode[code], REFUSE, code)
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE)
    ),
]
MAY_STAY = {".tmp", ".probe", ".claims", "drivers"}
"""Folders of ours that may stay, empty ones."""


SLIGHT = (
    "fossilray.cli.main",
    "fossilray.labels.importing",
    "fossilray.store.dataset.compact",
    "fossilray.store.query.connection",
)
LOADED = (
    *SLIGHT,
    "fossilray.analysis.export.anndata",
    *(
        "fossilray.analysis.export.image_folder",
        "fossilray.analysis.report.page",
        "fossilray.analysis.stratigraphy.chart",
        "fossilray.analysis.stratigraphy.page",
    ),
    *(
        "fossilray.labels.suggest.suggest",
        "fossilray.training.curation.curate",
        "fossilray.store.maintenance.verify",
        "sklearn.cluster",
    ),
    *(
        "fossilray.jobs.index",
        "fossilray.analysis.search.sheet",
        "fossilray.training.heads",
        "scipy.stats",
        "h5py",
    ),
    *("matplotlib.figure", "matplotlib.backends.backend_svg", "matplotlib.backends.backend_agg", "PIL.Image"),
)
"""Imported once, before children are forked; of commands that need little, SLIGHT."""


@dataclass
class Report:
    """What came of the points that were tried."""

    scenario: str
    operations: int = 0
    points: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Scenario:
    """A command that writes below a folder; what it makes there, in a form that equal results have in common."""

    act: Callable[[Path], None]
    begin: Callable[[Path], None] = lambda out: None
    outcome: Callable[[Path], Any] | None = None
    """None: every file's bytes."""


def start(*scenarios: str, library: Path, points: int = 0, seed: int = 0) -> list[Report]:
    """A report on each scenario, from one process that the library is loaded into."""
    environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    completed = subprocess.run(
        [sys.executable, __file__, str(points), str(seed), *scenarios],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    return [Report(**one) for one in json.loads(completed.stdout.splitlines()[-1])]


def build(folder: Path) -> Path | None:
    """The library, compiled; None where there is no compiler, or no Linux."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    library = folder / "support.fault_points.so"
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-O1",
        "-o",
        str(library),
        str(HERE / "support.fault_points.c"),
        "-ldl",
    ]
    return library if subprocess.run(command, check=False, capture_output=True).returncode == 0 else None


def try_points(name: str, scenario: Scenario, folder: Path, *, points: int, seed: int) -> Report:
    """Break each operation in each way, or some of them, and give the same command again."""
    shared = mmap.mmap(-1, 8)
    counted = ctypes.c_long.from_buffer(shared)
    report = Report(name)

    def prepare(number: int) -> Path:
        out = folder / f"{number:06d}"
        out.mkdir()
        scenario.begin(out)
        return out

    whole = prepare(0)
    status, output = act(scenario, whole, (0, 0, 0), counted)
    assert status == 0, output
    report.operations = counted.value
    expected, names = outcome_of(scenario, whole), listed(whole)
    every = [(number, fault) for number in range(1, report.operations + 1) for fault in FAULTS]
    chosen = every if points == 0 else random.Random(seed).sample(every, min(points, len(every)))
    for number, (operation, (fault, how, code)) in enumerate(chosen, start=1):
        out = prepare(number)
        status, output = act(scenario, out, (operation, how, code), counted)
        broken = counted.value >= operation
        faults = []
        if how == REFUSE and broken and ("Traceback" in output or status < 0):
            faults.append(f"not reported in one sentence (status {status}): {output[-160:]!r}")
        again, output = act(scenario, out, (0, 0, 0), counted)
        # What was waited for, or broken when all was done, need not be possible a second time.
        is_done = status == 0 or (how == AFTER and operation == report.operations)
        if again != 0 and not is_done:
            faults.append(f"the same command ends with {again}: {output[-200:]!r}")
        if faults:
            pass
        elif (found := outcome_of(scenario, out)) != expected:
            faults.append(f"another result: {differing(expected, found)}")
        elif left := sorted(set(listed(out)) - set(names)):
            faults.append(f"left behind: {left[:4]}")
        report.points += 1
        report.failures += [f"{operation} {fault}: {one}" for one in faults]
        shutil.rmtree(out)
    return report


def act(
    scenario: Scenario, out: Path, fault: tuple[int, int, int], counted: ctypes.c_long
) -> tuple[int, str]:
    """The command in a child of this process: how it ended (negative: by a signal) and what it printed."""
    with tempfile.TemporaryFile("w+") as log:
        child = os.fork()
        if child == 0:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            os.chdir(out)
            status = 70
            try:
                counted.value = 0
                library = ctypes.CDLL(None)
                library.fault_arm(str(out).encode(), fault[0], fault[1], fault[2], ctypes.byref(counted))
                scenario.act(out)
                status = 0
            except SystemExit as error:
                status = error.code if isinstance(error.code, int) else int(error.code is not None)
            except BaseException:  # noqa: BLE001 (an exception of any kind is what is looked for)
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, state = os.waitpid(child, 0)
        log.seek(0)
        status = -os.WTERMSIG(state) if os.WIFSIGNALED(state) else os.WEXITSTATUS(state)
        return status, log.read()


def outcome_of(scenario: Scenario, out: Path) -> Any:
    try:
        return contents(out) if scenario.outcome is None else scenario.outcome(out)
    except Exception as error:  # noqa: BLE001 (whatever it is, it is no equal result)
        return f"{type(error).__name__}: {error}"


def contents(out: Path) -> dict[str, str]:
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(out).parts)
    }


def listed(out: Path) -> list[str]:
    """Files and folders, with random and running numbers left out; empty folders of ours are nothing."""
    found = []
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out)
        if path.is_dir() and name.parts[-1] in MAY_STAY and not any(path.iterdir()):
            continue
        # Notes of tries that failed are meant to stay, as is TensorBoard's file of each start; parts are numbered on.
        if {"attempts", "tensorboard"} & set(name.parts):
            continue
        text = re.sub(r"part-\d+\.parquet", "part.parquet", name.as_posix())
        found.append(re.sub(r"[0-9a-f]{16}(?!\.fossilray)", "*", text))
    return found


def differing(one: Any, other: Any) -> str:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = [str(key) for key in one.keys() | other.keys() if one.get(key) != other.get(key)]
        pairs = [f"{one.get(key)!s:.150} != {other.get(key)!s:.150}" for key in sorted(keys)[:1]]
        return f"{sorted(keys)[:4]} {pairs}"
    return f"{str(other)[:200]}"


def cli(*words: object) -> None:
    from fossilray.cli.main import main

    sys.argv = ["fossilray", *map(str, words)]
    main()


def quietly(act: Callable[[], object]) -> None:
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        act()


def main() -> None:
    from support.fault_scenarios import prepare

    points, seed, names = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    with tempfile.TemporaryDirectory(prefix="points-") as folder:
        inputs, outputs = Path(folder) / "in", Path(folder) / "out"
        inputs.mkdir()
        outputs.mkdir()
        # In a child, so that no thread of a library is there when this process forks.
        child = os.fork()
        if child == 0:
            prepare(inputs, names)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        from support.fault_scenarios import scenarios

        for module in SLIGHT if all(name.startswith(("labels", "compact")) for name in names) else LOADED:
            importlib.import_module(module)
        reports = []
        for name in names:
            reports.append(try_points(name, scenarios(inputs)[name], outputs, points=points, seed=seed))
            shutil.rmtree(outputs)
            outputs.mkdir()
    print(json.dumps([asdict(report) for report in reports]))


if __name__ == "__main__":
    signal.alarm(3000)
    sys.path.insert(0, str(HERE))
    main()
