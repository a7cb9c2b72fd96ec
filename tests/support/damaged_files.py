"""One file of every kind that fossilray keeps, ways to damage it, and the commands that read it.

`python tests/support/damaged_files.py FOLDER SHARE SECONDS` tries a share of them and prints counts; the tests take
a few.
"""

from __future__ import annotations

import collections
import gzip
import io
import json
import random
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from support.classified_run import embed, predict
from support.cli_runner import invoke
from support.indexed_runs import a_vector_run, index_runs, kinds_of_vectors
from support.small_run import write_small_run

from fossilray.core.errors import FossilrayError
from fossilray.core.heartbeat import Heartbeat
from fossilray.labels.label import Label
from fossilray.labels.label_set import LabelSet
from fossilray.labels.occurrence import Occurrence

SECONDS = 60
EXIT_CODES = {0, 1, 2, 3, 4}
LOOKS = {
    "status": ("status", "RUN", "--json"),
    "verify": ("verify", "RUN"),
    "deep": ("verify", "RUN", "--deep"),
    "gc": ("gc", "RUN", "--older-than", "9d", "--dry-run"),
    "count": ("query", "RUN", "SELECT count(*) AS n, sum(width_um) AS w FROM objects", "--format", "csv"),
    "slides": ("query", "RUN", "SELECT * FROM slides", "--format", "csv"),
    "catalog": ("query", "RUN", "SELECT * FROM catalog", "--format", "csv"),
    "predictions": ("query", "RUN", "SELECT genus, count(*) AS n FROM predictions GROUP BY ALL", "--format", "csv"),
    "embeddings": ("query", "RUN", "SELECT count(*) AS n FROM embeddings", "--format", "csv"),
    "failures": ("failures", "RUN", "--format", "csv"),
    "report": ("report", "RUN", "--out", "OUT.html"),
    "export": ("export", "RUN", "--format", "csv", "--out", "OUT.csv"),
    "crops": ("crops", "RUN", "--out", "OUT", "--limit", "70"),
    "compact": ("compact", "RUN", "--to", "OUT", "--with-embeddings"),
    "labels": ("labels", "show", "LABELS"),
    "index": ("index", "status", "INDEX"),
    "verify labels": ("verify", "LABELS"),
    "verify index": ("verify", "INDEX"),
    "deep index": ("verify", "INDEX", "--deep"),
    "similar": ("similar", "INDEX", "--object", "one:3", "--format", "csv"),
    "config": ("config", "--config", "SETTINGS"),
    "status with settings": ("status", "RUN", "--config", "SETTINGS"),
}  # fmt: skip
READ_BY = (
    (r"run/run\.json", "status verify deep gc count failures report export compact"),
    (r"run/catalog\.parquet", "status verify deep gc count catalog failures report compact"),
    (r"run/objects/.*", "status verify deep gc count slides report export crops compact"),
    (r"run/slides/.*", "status verify deep gc slides report compact"),
    (r"run/attempts/.*", "status verify failures report"),
    (r"run/drivers/.*", "status gc report"),
    (r"run/pictures/.*", "deep report"),
    (r"run/arrays/.*json", "verify deep crops compact"),
    (r"run/arrays/.*", "verify deep crops compact"),
    (r"run/embeddings/.*", "status verify deep embeddings"),
    (r"run/predictions/.*", "status verify deep predictions report"),
    (r"dataset/.*", "verify deep status count slides failures export"),
    (r"labels/.*", "labels,verify labels"),
    (r"index/.*", "index,similar,verify index,deep index"),
    (r"settings\.yaml", "config"),
)
Damage = Callable[[bytes, random.Random], bytes | None]
"""The damaged content; None: this kind of file cannot have it."""


def write_world(folder: Path) -> None:
    """A run with answers, its dataset, a label set, settings, and an index over another run."""
    run = write_small_run(folder / "run")
    run.append_summaries(run.summaries())
    predict(run, "head")
    embed(run, "net", dimension=4)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    run.attempts.write_heartbeat(Heartbeat("driver", now, now, 6, 4, 1, 77, 12.5, 2, ("e-broken",)))
    look(folder, ("compact", "RUN", "--to", str(folder / "dataset"), "--with-embeddings"), run="run")
    labels = LabelSet.open_or_create(folder / "labels")
    labels.add(
        [Label("a-2030", 1, "x", (1, 2, 3, 4), "me", Occurrence("Alnus", "Alnus"))],
        source="s", source_sha256="0" * 64, run="run", run_digest="0" * 64,
    )  # fmt: skip
    vectors = {"one": kinds_of_vectors(300, seed=1), "two": kinds_of_vectors(500, seed=2)}
    a_vector_run(folder / "vectors", vectors)
    index_runs([str(folder / "vectors")], folder / "index")
    settings = "detector:\n  confidence: 0.3\nworkers:\n  count: 2\n"
    (folder / "settings.yaml").write_text(settings, encoding="utf-8")


@dataclass(frozen=True)
class Trial:
    """One damaged file, read by one command."""

    path: str
    damage: str
    look: str


@dataclass(frozen=True)
class Outcome:
    """What became of it."""

    kind: str
    """same, named, unnamed, traceback, exit or hang."""
    detail: str = ""


def trials(folder: Path) -> list[Trial]:
    """All of them: of many files of one kind, the first two."""
    found = []
    seen: collections.Counter[str] = collections.Counter()
    for path in sorted(one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file()):
        for pattern, looks in READ_BY:
            if re.fullmatch(pattern, path):
                kind = re.sub(r"[0-9a-f]{16}|[a-z]-\w+|\d+", "*", path)
                seen[kind] += 1
                if seen[kind] <= 2:
                    found += [
                        Trial(path, damage, one)
                        for damage in DAMAGES
                        for one in re.split("[ ,]" if "," not in looks else ",", looks)
                    ]
                break
    return found


def attempt(folder: Path, trial: Trial, before: str | None, *, seed: int = 0) -> Outcome | None:
    """Damage the file, look, put it back; None where the damage does not suit the file.

    before: what the command printed of the sound file.
    """
    file = folder / trial.path
    content = file.read_bytes()
    rng = random.Random(f"{trial} {seed}")
    if trial.damage == "directory":
        file.unlink()
        file.mkdir()
    else:
        damaged = DAMAGES[trial.damage](content, rng)
        if damaged is None or damaged == content:
            return None
        file.write_bytes(damaged)
    try:
        with _alarm():
            found = look(folder, LOOKS[trial.look], run=trial.path.split("/")[0])
    except TimeoutError:
        return Outcome("hang")
    finally:
        if file.is_dir():
            file.rmdir()
        file.write_bytes(content)
    names = {part for part in Path(trial.path).parts[1:] if len(part) > 4} | {Path(trial.path).stem}
    if trial.path == "settings.yaml":
        names = {"settings.yaml", "detector", "workers"}
    if found.kind in ("traceback", "exit"):
        return found
    if found.kind == "said" and found.detail == before:
        return Outcome("same")
    named = any(name in found.detail for name in names)
    return Outcome("named" if named else "unnamed", found.detail)


def look(folder: Path, words: tuple[str, ...], *, run: str) -> Outcome:
    """What a command says; `run` is the folder that stands for RUN."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    places = {
        "RUN": folder / (run if run in ("run", "dataset") else "run"),
        "LABELS": folder / "labels",
        "INDEX": folder / "index",
        "SETTINGS": folder / "settings.yaml",
    }
    given = [str(places.get(word, word.replace("OUT", str(out / "made")))) for word in words]
    answer = invoke(*given, columns=400)
    error = answer.exception
    if isinstance(error, FossilrayError):
        return Outcome("refused", str(error))
    if error is not None and not isinstance(error, SystemExit):
        shown = "".join(traceback.format_exception(error))
        return Outcome("traceback", shown)
    if answer.exit_code not in EXIT_CODES:
        return Outcome("exit", f"{answer.exit_code}: {answer.output}")
    made = "".join(_digest(file) for file in sorted(out.rglob("*.csv")))
    return Outcome("said", _steady(answer.output) + made)


def _steady(text: str) -> str:
    """Without times, which differ at each look."""
    return re.sub(
        r"\d{4}-\d\d-\d\d[T ][\d:+]+|(took|in) +[\d.,]+ s\b|core_hours\": [\d.]+|\"read_at\".*", "", text
    )


def _digest(file: Path) -> str:
    return file.read_text(encoding="utf-8")


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(_number: int, _frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# Damages


def _flip(content: bytes, rng: random.Random) -> bytes | None:
    if not content:
        return None
    damaged = bytearray(content)
    damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _flip_end(content: bytes, rng: random.Random) -> bytes | None:
    if len(content) < 200:
        return None
    damaged = bytearray(content)
    for _ in range(3):
        damaged[-rng.randrange(8, 200)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _in_json(change: Callable[[Any, random.Random], Any]) -> Damage:
    def damage(content: bytes, rng: random.Random) -> bytes | None:
        try:
            tree = json.loads(content)
        except ValueError:
            return None
        if not isinstance(tree, dict) or not tree:
            return None
        changed = change(tree, rng)
        return changed if isinstance(changed, bytes) else json.dumps(changed).encode()

    return damage


def _each_number(value: object) -> Callable[[Any, random.Random], Any]:
    def change(tree: Any, rng: random.Random) -> Any:
        if isinstance(tree, dict):
            return {key: change(inner, rng) for key, inner in tree.items()}
        if isinstance(tree, list):
            return [change(inner, rng) for inner in tree]
        return value if isinstance(tree, int | float) and not isinstance(tree, bool) else tree

    return change


def _each_text(tree: Any, rng: random.Random) -> Any:
    return {key: 7 if isinstance(inner, str) else inner for key, inner in tree.items()}


def _without_key(tree: dict[str, Any], rng: random.Random) -> Any:
    gone = rng.choice(sorted(tree))
    return {key: inner for key, inner in tree.items() if key != gone}


def _twice(tree: dict[str, Any], rng: random.Random) -> bytes:
    key = rng.choice(sorted(tree))
    return b"{" + json.dumps(key).encode() + b": 1, " + json.dumps(tree).encode()[1:]


def _in_table(change: Callable[[pa.Table, random.Random], pa.Table]) -> Damage:
    def damage(content: bytes, rng: random.Random) -> bytes | None:
        try:
            table = pq.read_table(io.BytesIO(content))
        except (pa.ArrowException, OSError):
            return None
        sink = io.BytesIO()
        pq.write_table(change(table, rng), sink)
        return sink.getvalue()

    return damage


def _numbers(table: pa.Table) -> list[int]:
    return [
        place
        for place, field in enumerate(table.schema)
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    ]


def _fill(value: Any, kind: pa.DataType | None = None) -> Callable[[pa.Table, random.Random], pa.Table]:
    def change(table: pa.Table, rng: random.Random) -> pa.Table:
        places = _numbers(table) or [0]
        if kind is not None and pa.types.is_floating(kind):
            places = [place for place in places if pa.types.is_floating(table.schema.field(place).type)] or [
                0
            ]
        place = rng.choice(places)
        old = table.schema.field(place)
        column = pa.array([value] * table.num_rows, kind or old.type)
        return table.set_column(place, old.name, column)

    return change


DAMAGES: dict[str, Damage] = {
    "empty": lambda content, rng: b"",
    "half": lambda content, rng: content[: len(content) // 2],
    "short of 5 bytes": lambda content, rng: content[:-5],
    "flip": _flip,
    "another flip": _flip,
    "flips at the end": _flip_end,
    "zeros": lambda content, rng: bytes(len(content)),
    "noise": lambda content, rng: rng.randbytes(max(len(content), 50)),
    "directory": lambda content, rng: None,
    "deep": lambda content, rng: b"[" * 200_000,
    "deep keys": lambda content, rng: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "gzipped": lambda content, rng: gzip.compress(content),
    "list": lambda content, rng: b"[]",
    "null": lambda content, rng: b"null",
    "no magic": lambda content, rng: b"PAR1" + content[4:-4] + b"XXXX" if content[:4] == b"PAR1" else None,
    "text for numbers": _in_json(_each_number("many")),
    "infinite numbers": _in_json(_each_number(float("inf"))),
    "no numbers": _in_json(_each_number(float("nan"))),
    "huge numbers": _in_json(_each_number(10**300)),
    "large numbers": _in_json(_each_number(2**62)),
    "huge fractions": _in_json(_each_number(1e308)),
    "negative numbers": _in_json(_each_number(-3)),
    "numbers for text": _in_json(_each_text),
    "missing key": _in_json(_without_key),
    "additional key": _in_json(lambda tree, rng: {**tree, "colour": "red"}),
    "key twice": _in_json(_twice),
    "missing column": _in_table(lambda table, rng: table.remove_column(rng.randrange(table.num_columns))),
    "additional column": _in_table(
        lambda table, rng: table.append_column("colour", pa.array(["red"] * table.num_rows))
    ),
    "column of text": _in_table(_fill("many", pa.string())),
    "column of nulls": _in_table(_fill(None)),
    "column of NaN": _in_table(_fill(float("nan"), pa.float64())),
    "column of lists": _in_table(_fill([1, 2], pa.list_(pa.int64()))),
    "column negative": _in_table(_fill(-1, pa.int64())),
    "no metadata": _in_table(lambda table, rng: table.replace_schema_metadata(None)),
    "aliases": lambda content, rng: "\n".join(
        ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
        + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    ).encode(),
}  # fmt: skip


def main(folder: Path, share: float, seconds: float) -> None:
    """Try this share of them, in an order of their own, for so long at most, and print how they ended."""
    if not (folder / "settings.yaml").exists():
        write_world(folder)
    told: collections.Counter[str] = collections.Counter()
    listed: collections.Counter[str] = collections.Counter()
    sound: dict[tuple[str, str], str] = {}
    inputs = set()
    ends = time.monotonic() + seconds
    for trial in chosen(folder, share):
        if time.monotonic() > ends:
            break
        outcome = try_one(folder, trial, sound)
        if outcome is None:
            continue
        inputs.add((trial.path, trial.damage))
        told[outcome.kind] += 1
        if outcome.kind not in ("same", "named"):
            kind = re.sub(r"[0-9a-f]{16}|[a-z]-\w+", "*", trial.path)
            where = [line.strip() for line in outcome.detail.splitlines() if "/fossilray/" in line][-1:]
            last = outcome.detail.strip().splitlines()[-1:] or [""]
            listed[f"{outcome.kind:10} {kind} | {trial.damage} | {trial.look} | {where} {last[0][:150]}"] += 1
    for line, count in sorted(listed.items()):
        print(count, line)
    print(f"{len(inputs)} inputs, {sum(told.values())} trials:", dict(told))


def chosen(folder: Path, share: float) -> list[Trial]:
    """A share of the trials, the same at each call and of each world, mixed."""
    mixed = sorted(
        trials(folder), key=lambda trial: random.Random(re.sub("[0-9a-f]{16,}", "*", str(trial))).random()
    )
    return mixed[: round(len(mixed) * share)]


def try_one(folder: Path, trial: Trial, sound: dict[tuple[str, str], str]) -> Outcome | None:
    """`attempt`, compared with the sound file; `sound` keeps what commands say of those."""
    key = (trial.path.split("/")[0], trial.look)
    if key not in sound:
        sound[key] = look(folder, LOOKS[trial.look], run=key[0]).detail
    return attempt(folder, trial, sound[key])


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
