"""`fossilray process` as a user runs it: one folder with everything in it that goes wrong in archives."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import duckdb
import pytest
from support.slides_on_disk import discs, write_slide
from support.waiting import wait_for

from fossilray.cli.main import main
from fossilray.core.config import load_config
from fossilray.core.records import Failure, SlideSummary
from fossilray.core.slide_names import slide_id_for
from fossilray.store import RunStore
from fossilray.synthetic.writers.pixels import ArrayPixels
from fossilray.synthetic.writers.tiff import TiffOptions, write_pyramidal_tiff

ROOT = Path(__file__).parents[2]
QUICK = (
    "detector.kind=classical",
    "embedder.weights=none",
    "workers.count=2",
    "tiling.tile_px=512",
    "slides.max_lost_share=1",
    "detector.classical.min_area_um2=100",
)
GOOD_NAMES = ("6407_6-5 2030 mDC", "Prøve №1 «ø»", 'it\'s "q"; drop table objects', "a..b", "trailing .")


def settings(assignments: tuple[str, ...]) -> list[str]:
    load_config(None, assignments)
    return [word for assignment in assignments for word in ("--set", assignment)]


@dataclass(frozen=True)
class Finished:
    """A folder of slides after `fossilray process`."""

    folder: Path
    run: Path
    returncode: int
    stdout: str
    stderr: str
    committed: dict[str, SlideSummary]
    failures: dict[str, Failure]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("archive")
    for name in GOOD_NAMES:
        write_slide(folder / f"{name}.mrxs")
    write_slide(folder / "one" / "same.mrxs")
    write_slide(folder / "two" / "same.mrxs")
    write_slide(folder / "blank.mrxs", objects=0)
    write_slide(folder / "torn.mrxs", size=3072, data_files=7)
    spoil_a_row(folder / "torn")
    for name, spoil in SPOILED.items():
        write_slide(folder / f"{name}.mrxs", size=1024)
        spoil(folder, name)
    write_pyramidal_tiff(
        folder / "no resolution.tif", ArrayPixels(image=discs(1024)), TiffOptions(tile_px=256)
    )
    forget_resolution(folder / "no resolution.tif")
    (folder / "empty.tiff").touch()
    run = folder.parent / "run of 'quotes' & spaces"
    result = process(folder, run)
    store = RunStore.open(str(run))
    return Finished(
        folder,
        run,
        result.returncode,
        result.stdout,
        result.stderr,
        {row.slide_id: row for row in store.summaries()},
        {failure.slide_id: failure for failure in store.attempts.failures()},
    )


SPOILED: dict[str, Callable[[Path, str], object]] = {
    "text": lambda folder, name: (
        shutil.rmtree(folder / name),
        (folder / f"{name}.mrxs").write_text("not a slide"),
    ),
    "no folder": lambda folder, name: shutil.rmtree(folder / name),
    "no slidedat": lambda folder, name: (folder / name / "Slidedat.ini").unlink(),
    "no data": lambda folder, name: (folder / name / "Data0000.dat").unlink(),
    "empty data": lambda folder, name: (folder / name / "Data0000.dat").write_bytes(b""),
}
REASONS = {
    "text": "no folder|not a slide|cannot be read|OpenSlide",
    "no folder": "folder",
    "no slidedat": r"Slidedat\.ini",
    "no data": r"Data0000\.dat",
    "empty data": r"Data0000\.dat",
}


def test_one_bad_slide_does_not_fail_the_job(finished: Finished) -> None:
    assert finished.returncode == 0, finished.stderr
    assert "Traceback" not in finished.stderr


def test_every_file_is_committed_or_recorded_with_its_reason(finished: Finished) -> None:
    names = {*GOOD_NAMES, "one/same", "two/same", "blank", "torn"}
    assert set(finished.committed) == {slide_id_for(Path(f"{name}.mrxs")) for name in names}
    bad = {f"{name}.mrxs" for name in SPOILED} | {"no resolution.tif", "empty.tiff"}
    assert set(finished.failures) == {slide_id_for(Path(name)) for name in bad}


@pytest.mark.parametrize("name", SPOILED)
def test_a_broken_mirax_slide_is_refused_by_name_in_one_sentence(finished: Finished, name: str) -> None:
    failure = finished.failures[slide_id_for(Path(f"{name}.mrxs"))]
    assert re.search(REASONS[name], failure.message)
    assert "\n" not in failure.message


def test_failure_of_a_slide_without_resolution_names_the_setting(finished: Finished) -> None:
    failure = finished.failures[slide_id_for(Path("no resolution.tif"))]
    assert failure.error == "MissingResolution"
    assert "slides.mpp" in failure.message


def test_an_empty_file_is_named(finished: Finished) -> None:
    assert "empty" in finished.failures[slide_id_for(Path("empty.tiff"))].message


def test_failures_are_listed_at_the_end(finished: Finished) -> None:
    for slide_id in finished.failures:
        assert slide_id[:12] in finished.stdout


def test_the_last_line_counts_the_failures_by_reason_and_names_the_next_command(finished: Finished) -> None:
    last = finished.stdout.rstrip("\n").splitlines()[-1]
    assert last.startswith("not committed: ")
    by_state = dict(re.findall(r"(\d+ [a-z]+) \(([^)]*)\)", last))
    counts = [re.findall(r"(\d+) (\w+)", errors) for errors in by_state.values()]
    assert sum(int(count) for errors in counts for count, _ in errors) == len(finished.failures)
    assert {error for errors in counts for _, error in errors} == {
        failure.error for failure in finished.failures.values()
    }
    command = re.search(r"`fossilray ([^`]*)` lists the reasons", last)
    assert command is not None
    assert shlex.split(command[1]) == ["failures", str(finished.run)]
    assert last.endswith("run the same command again")


def test_a_slide_without_objects_commits_no_rows(finished: Finished) -> None:
    row = finished.committed["blank"]
    assert row.objects == 0
    assert row.tiles_blank == row.tiles_planned


def test_an_unreadable_row_of_photos_is_counted_and_the_rest_of_the_slide_kept(finished: Finished) -> None:
    row = finished.committed["torn"]
    assert row.tiles_failed > 0
    assert row.tiles_read > 0
    assert row.tiles_planned == row.tiles_blank + row.tiles_read + row.tiles_failed
    assert row.objects > 0


def test_the_same_stem_in_two_folders_is_two_slides(finished: Finished) -> None:
    assert {"one__same", "two__same"} <= set(finished.committed)


def test_well_and_depth_come_from_the_name(finished: Finished) -> None:
    row = finished.committed[slide_id_for(Path("6407_6-5 2030 mDC.mrxs"))]
    assert (row.well, row.measured_depth_m) == ("6407/6-5", 2030.0)


def test_a_bare_glob_shows_each_object_once(finished: Finished) -> None:
    pattern = str(finished.run / "objects" / "*" / "*.parquet").replace("'", "''")
    rows = duckdb.sql(
        f"select slide_id, count(*), count(distinct object_id) from read_parquet('{pattern}') group by slide_id"
    ).fetchall()
    assert {slide_id: count for slide_id, count, _ in rows} == {
        slide_id: row.objects for slide_id, row in finished.committed.items() if row.objects
    }
    assert all(count == distinct for _, count, distinct in rows)


def test_nothing_is_written_outside_the_run_directory(finished: Finished) -> None:
    assert sorted(path.name for path in finished.run.parent.iterdir()) == sorted(
        [finished.folder.name, finished.run.name]
    ) or finished.run.parent.name.startswith(("pytest-", "popen-"))
    for slide_id in [*finished.committed, *finished.failures]:
        assert "/" not in slide_id
        assert ".." not in slide_id


def test_the_same_command_again_processes_nothing(finished: Finished) -> None:
    before = snapshot(finished.run / "objects")
    result = process_here(finished.folder, finished.run)
    assert result.returncode == 0
    assert f"({len(finished.committed)} before)" in result.stdout
    assert snapshot(finished.run / "objects") == before


def test_strict_exits_with_4_when_slides_failed(finished: Finished) -> None:
    assert process_here(finished.folder, finished.run, "--strict").returncode == 4


def test_other_settings_are_refused_with_the_difference(finished: Finished) -> None:
    result = process_here(finished.folder, finished.run, "--set", "detector.classical.offset=9")
    assert result.returncode == 2
    assert "detector.classical.offset" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_dry_run_writes_nothing(finished: Finished, tmp_path: Path) -> None:
    result = process_here(finished.folder, tmp_path / "dry", "--dry-run")
    assert result.returncode == 0
    assert f"{len(finished.committed)} slides (0 already committed)" in result.stdout
    assert not (tmp_path / "dry").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere", "--run", "RUN"], "nothing at nowhere"),
        (["SLIDES", "--run", "RUN", "--set", "detector.confidance=1"], "not a configuration field"),
        (["SLIDES", "--run", "RUN", "--config", "absent.yaml"], "check the path"),
        (["SLIDES", "--run", "RUN", "--set", "detector.weights=absent.pt"], r"absent\.pt"),
        (["SLIDES", "--run", "/proc/run", *settings(QUICK)], "cannot"),
        (["SLIDES"], "no run directory"),
    ],
)
def test_bad_usage_is_one_sentence_and_a_code(
    finished: Finished, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    paths = {"SLIDES": str(finished.folder / "blank.mrxs"), "RUN": str(tmp_path / "run")}
    result = fossilray_here("process", *[paths.get(word, word) for word in arguments])
    assert result.returncode in (1, 2)
    assert re.search(reason, result.stderr)
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.glob("run/objects/*"))


@pytest.mark.slow
def test_interrupted_it_stops_soon_and_the_same_command_finishes(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    for number in range(6):
        write_slide(folder / f"slide{number}.mrxs", size=3072, objects=60)
    run = tmp_path / "run"
    with subprocess.Popen(
        command("process", str(folder), "--run", str(run), *settings(QUICK)), cwd=ROOT
    ) as driver:
        wait_for(lambda: any(run.glob("attempts/*/*")), lives=lambda: driver.poll() is None)
        driver.send_signal(signal.SIGINT)
        assert driver.wait(timeout=60) == 130
    committed = len(list(run.glob("objects/*/*.parquet")))
    assert committed < 6
    assert process(folder, run).returncode == 0
    assert len(list(run.glob("objects/*/*.parquet"))) == 6


def test_a_catalog_is_written_edited_and_processed(
    finished: Finished, shared_ray: str, tmp_path: Path
) -> None:
    listed = tmp_path / "catalog.csv"
    result = fossilray_here("catalog", str(finished.folder), "--out", str(listed))
    assert result.returncode == 0
    refused = (tmp_path / "catalog.refused.csv").read_text(encoding="utf-8")
    assert all(name in refused and name in result.stdout for name in ("no slidedat.mrxs", "empty.tiff"))
    text = listed.read_text(encoding="utf-8").splitlines()
    keep = [text[0], next(line for line in text if line.startswith("blank,")) + ""]
    fields = dict(zip(keep[0].split(","), keep[1].split(","), strict=True))
    fields |= {"well": "34/10-A-12", "measured_depth_m": "1999.5"}
    listed.write_text(keep[0] + "\n" + ",".join(fields.values()) + "\n", encoding="utf-8")
    scratch = tmp_path / "scratch"
    killed = leave_scratch(scratch)
    demo = scratch / "fossilray-demo" / "run"
    demo.mkdir(parents=True)
    (demo / "run.json").touch()
    os.utime(demo.parent, (0, 0))
    words = ("--set", f"slides.scratch={scratch}", "--address", shared_ray)
    result = process_here(listed, tmp_path / "run", *words)
    assert result.returncode == 0
    assert not killed.exists()
    assert (demo / "run.json").exists()
    row = RunStore.open(str(tmp_path / "run")).summaries()[0]
    assert (row.slide_id, row.well, row.measured_depth_m) == ("blank", "34/10-A-12", 1999.5)


def leave_scratch(root: Path) -> Path:
    """The scratch folder of a process that was killed."""
    program = (
        "import os, sys; from fossilray.slides.remote.scratch import Scratch; s = Scratch(sys.argv[1]); "
    )
    program += "print(s.folder, flush=True); os.kill(os.getpid(), 9)"
    result = subprocess.run(
        [sys.executable, "-c", program, str(root)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return Path(result.stdout.strip())


def test_the_pipeline_script_with_a_configuration_alone_is_the_same_job(
    finished: Finished, tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        f"slides: {{source: {finished.folder / 'blank.mrxs'}}}\n"
        f"store: {{run: {tmp_path / 'run'}}}\n"
        "detector: {kind: classical}\nembedder: {weights: none}\n",
        encoding="utf-8",
    )
    script = [sys.executable, str(ROOT / "pipelines" / "process_slides.py"), "--config", str(config)]
    result = subprocess.run(
        script,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    assert RunStore.open(str(tmp_path / "run")).committed() == {"blank"}


def test_progress_without_a_terminal_is_json_lines(finished: Finished) -> None:
    lines = [json.loads(line) for line in finished.stdout.splitlines() if line.startswith("{")]
    assert lines[-1]["event"] == "progress"
    assert lines[-1]["committed"] == len(finished.committed)


def process(slides: Path, run: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with a private Ray."""
    arguments = ("process", str(slides), "--run", str(run), *settings(QUICK), *more)
    return subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, check=False, timeout=240, env=None
    )


def process_here(slides: Path, run: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return fossilray_here("process", str(slides), "--run", str(run), *settings(QUICK), *more)


def fossilray_here(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The program in this process, from its arguments to its exit code."""
    output, errors = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["fossilray", *arguments]),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    code = ended.value.code or 0
    assert isinstance(code, int)
    return subprocess.CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from fossilray.cli.main import main; main()", *arguments]


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*.parquet")}


def spoil_a_row(companions: Path) -> None:
    """Blank the data file of one row of photos, as a copy that broke off and was padded does."""
    data = companions / "Data0002.dat"
    data.write_bytes(bytes(data.stat().st_size))


def forget_resolution(path: Path) -> None:
    import tifffile

    with tifffile.TiffFile(path, mode="r+") as tiff:
        for page in tiff.pages:
            page.tags["ResolutionUnit"].overwrite(1)
