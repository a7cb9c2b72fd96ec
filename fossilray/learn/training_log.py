"""What a training leaves to read of its course: two CSV files, and the same for TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fossilray.learn.training_checkpoint import Position

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS_CSV, PROBES_CSV = "metrics.csv", "probes.csv"


class TrainingLog:
    """metrics.csv (a row every log_every steps), probes.csv (a row a probe) and tensorboard/."""

    def __init__(self, folder: Path, *, after_step: int) -> None:
        """Rows later than `after_step` are dropped: the training goes on from there, or begins anew at 0."""
        folder.mkdir(parents=True, exist_ok=True)
        self._files = {name: _CsvFile(folder / name, after_step) for name in (METRICS_CSV, PROBES_CSV)}
        self._board = _open_board(folder / "tensorboard", after_step)

    def step(self, at: Position, share: float, metrics: Mapping[str, float]) -> None:
        """Note the figures of a step."""
        self._note(METRICS_CSV, "training", at, {"share": share, **metrics})

    def probe(self, at: Position, figures: Mapping[str, float]) -> None:
        """Note the figures of a probe."""
        self._note(PROBES_CSV, "probe", at, figures)

    def close(self) -> None:
        """Write out what TensorBoard still holds back."""
        if self._board is not None:
            self._board.close()

    def _note(self, file: str, group: str, at: Position, figures: Mapping[str, float]) -> None:
        row = {"step": at.step, "epoch": at.epoch, "seconds": round(at.seconds, 1)}
        self._files[file].append({**row, **{name: f"{value:.6g}" for name, value in figures.items()}})
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(f"{group}/{name}", value, at.step)


class _CsvFile:
    """Rows of the columns that the first row has."""

    def __init__(self, path: Path, after_step: int) -> None:
        self._path = path
        rows = [row for row in read_rows(path) if int(row["step"]) <= after_step]
        self._columns = list(rows[0]) if rows else []
        self._write("w", rows)

    def append(self, row: Mapping[str, object]) -> None:
        if not self._columns:
            self._columns = list(row)
            self._write("w", [row])
        else:
            self._write("a", [row])

    def _write(self, mode: str, rows: list[Mapping[str, object]] | list[dict[str, str]]) -> None:
        with self._path.open(mode, newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="", extrasaction="ignore")
            if mode == "w" and self._columns:
                writer.writeheader()
            writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file that this module wrote; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if None not in row.values()]


def _open_board(folder: Path, after_step: int) -> SummaryWriter | None:
    """None without TensorBoard, which is an extra; the CSV files say the same."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=after_step + 1)
