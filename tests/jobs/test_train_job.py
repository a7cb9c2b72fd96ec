"""The training job on Ray: workers together, killed, stopped and resumed; and what is refused before it starts."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from support.cli_runner import invoke, run_command
from support.s3_bucket import s3_endpoint, s3_run
from support.small_training import a_config, crops, losses, train

from fossilray.core.config import StoreConfig, TrainConfig
from fossilray.core.errors import UsageError
from fossilray.jobs.train import cpus_of_a_worker, run_training
from fossilray.training.loop import TrainingProgress
from fossilray.training.output_folder import TrainingFolder

__all__ = ["crops", "s3_endpoint", "s3_run"]


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(900)
def test_two_workers_of_which_one_is_killed_reach_the_curve_of_two_that_live(
    crops: Path, tmp_path: Path
) -> None:
    config = a_config(crops, steps=8, workers=2, torch_threads=1, checkpoint_minutes=1e-9)
    whole = run_training(config, str(tmp_path / "whole"))
    killed: list[int] = []

    def kill_one(progress: TrainingProgress) -> None:
        if progress.step >= 3 and not killed:
            killed.append(_a_training_worker())
            os.kill(killed[0], signal.SIGKILL)

    end = run_training(config, str(tmp_path / "killed"), report=kill_one)
    assert killed
    assert (whole.finished, end.finished, end.step) == (True, True, 8)
    assert losses(tmp_path / "killed") == pytest.approx(losses(tmp_path / "whole"), rel=1e-3)
    assert not (tmp_path / "killed" / "ray").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stopped_job_writes_a_checkpoint_and_the_same_call_resumes_with_other_workers(
    crops: Path, tmp_path: Path
) -> None:
    config = a_config(crops, steps=400, workers=2, torch_threads=1)
    stop = threading.Event()

    def stop_soon(progress: TrainingProgress) -> None:
        if progress.step >= 2:
            stop.set()

    stopped = run_training(config, str(tmp_path), report=stop_soon, stop=stop)
    assert not stopped.finished
    assert 0 < stopped.step < 400
    longer = config.model_copy(update={"steps": stopped.step + 2, "workers": 1})
    resumed = run_training(longer, str(tmp_path))
    assert (resumed.finished, resumed.step) == (True, stopped.step + 2)
    assert len(losses(tmp_path)) == stopped.step + 2


def test_local_training_writes_a_backbone_and_the_same_command_again_has_nothing_left_to_do(
    crops: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "training.yaml"
    settings.write_text(a_config(crops, steps=2).model_dump_json(), encoding="utf-8")
    command = ["train", "backbone", str(tmp_path / "out"), "--train-config", str(settings), "--local"]
    for _ in range(2):
        assert "2 steps" in run_command(*command)
    assert (tmp_path / "out" / "backbone.safetensors").is_file()
    assert len(losses(tmp_path / "out")) == 2


def test_an_impossible_configuration_is_refused_before_any_worker_starts(crops: Path, tmp_path: Path) -> None:
    train(a_config(crops, steps=1), tmp_path)
    with pytest.raises(UsageError, match="arch_kwargs was"):
        run_training(a_config(crops, arch_kwargs={"channels": [8, 8, 8, 8]}), str(tmp_path))
    with pytest.raises(UsageError, match="--min-workers 3 is out of range for workers=2"):
        run_training(a_config(crops, workers=2), str(tmp_path / "out"), min_workers=3)
    for refused in (["s3://bucket/out"], [str(tmp_path / "out"), "--workers", "2"]):
        invoked = invoke("train", "backbone", *refused, "--local", "--source", crops)
        assert isinstance(invoked.exception, UsageError)


def test_cpus_of_a_machine_are_shared_by_whole_workers() -> None:
    assert cpus_of_a_worker([8, 8], 2) == 8
    assert cpus_of_a_worker([8, 8], 3) == 4
    assert cpus_of_a_worker([2], 2) == 1
    assert cpus_of_a_worker([2], 3) == 0


def test_training_in_a_bucket_is_fetched_as_it_was_brought_and_keeps_the_last_checkpoints(
    crops: Path, s3_run: tuple[str, StoreConfig]
) -> None:
    url, access = s3_run
    reached = {name: getattr(access, name) for name in ("endpoint_url", "region")}
    config = TrainConfig.model_validate(
        {**a_config(crops).model_dump(), "data": {"sources": [str(crops)], "access": reached}}
    )
    with TrainingFolder.open(url, config) as training_folder:
        assert training_folder.latest() is None
        first, second = (training_folder.folder / "checkpoints" / f"step-0000000{step}.pt" for step in (1, 2))
        first.parent.mkdir()
        first.write_bytes(b"one")
        (training_folder.folder / "metrics.csv").write_text("step\n1\n")
        training_folder.upload()
        first.rename(second)
        second.write_bytes(b"two")
        training_folder.upload()
    with TrainingFolder.open(url, config) as training_folder:
        assert training_folder.latest() == "step-00000002.pt"
        training_folder.download_logs()
        assert training_folder.download_checkpoint("step-00000002.pt").read_bytes() == b"two"
        assert (training_folder.folder / "metrics.csv").read_text() == "step\n1\n"
        training_folder.upload()
        assert not (training_folder.folder / "checkpoints" / "step-00000001.pt").exists()


def _a_training_worker() -> int:
    """Process id of one Ray Train worker below this process."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                title = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::") and b"RayTrainWorker" in title and _is_below(int(entry.name)):
                return int(entry.name)
    raise AssertionError("no worker of Ray Train is at work")


def _is_below(process: int) -> bool:
    while process > 1:
        if process == os.getpid():
            return True
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
        process = int(stat.rpartition(")")[2].split()[1])
    return False
