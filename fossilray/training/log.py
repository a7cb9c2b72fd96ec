"""Logs of a training: two CSV files, the same values for TensorBoard, and the training speed."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fossilray.core.atomic_files import atomic_text, cannot_write, make_folder
from fossilray.core.formats import FileRole, csv_text
from fossilray.training.checkpoint import Position

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS_CSV, PROBES_CSV = "metrics.csv", "probes.csv"


class SpeedMeter:
    """Images per second, over the time of steps alone."""

    def __init__(self) -> None:
        self.images, self._seconds = 0, 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Count the time of the block."""
        started_s = time.monotonic()
        yield
        self._seconds += time.monotonic() - started_s

    def take(self) -> float:
        """Return the speed since the last call, and start again."""
        speed = self.images / max(self._seconds, 1e-9)
        self.images, self._seconds = 0, 0.0
        return speed


class TrainingLog:
    """metrics.csv (a row every log_every steps), probes.csv (a row a probe) and tensorboard/."""

    def __init__(self, folder: Path, *, after_step: int) -> None:
        """Open the logs and drop rows after step `after_step`, from which the training resumes; 0 starts again."""
        make_folder(folder)
        self._files = {name: _CsvFile(folder / name, after_step) for name in (METRICS_CSV, PROBES_CSV)}
        self._board = _open_board(folder / "tensorboard", after_step)

    def step(self, position: Position, share: float, metrics: Mapping[str, float]) -> None:
        """Log the metrics of a step; `share` is the share of the training that is done."""
        self._append(METRICS_CSV, "training", position, {"share": share, **metrics})

    def probe(self, position: Position, metrics: Mapping[str, float]) -> None:
        """Log the metrics of a probe."""
        self._append(PROBES_CSV, "probe", position, metrics)

    def close(self) -> None:
        """Flush and close the TensorBoard log."""
        if self._board is not None:
            self._board.close()

    def _append(self, file: str, group: str, position: Position, metrics: Mapping[str, float]) -> None:
        row = {"step": position.step, "epoch": position.epoch, "seconds": round(position.seconds, 1)}
        self._files[file].append({**row, **{name: f"{value:.6g}" for name, value in metrics.items()}})
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(f"{group}/{name}", value, position.step)


class _CsvFile:
    """A CSV file whose columns are those of its first row."""

    def __init__(self, path: Path, after_step: int) -> None:
        self._path = path
        rows = [row for row in read_log(path) if int(row["step"]) <= after_step]
        self._columns = list(rows[0]) if rows else []
        self._write(rows)

    def append(self, row: Mapping[str, object]) -> None:
        if not self._columns:
            self._columns = list(row)
            self._write([row])
            return
        try:
            with self._path.open("a", newline="", encoding="utf-8") as file:
                self._writer(file).writerow(row)
        except OSError as error:
            raise cannot_write(self._path, error) from None

    def _write(self, rows: Sequence[Mapping[str, object]]) -> None:
        with atomic_text(self._path, newline="") as file:
            writer = self._writer(file)
            if self._columns:
                writer.writeheader()
            writer.writerows(rows)

    def _writer(self, file: IO[str]) -> csv.DictWriter[str]:
        return csv.DictWriter(file, self._columns, restval="", extrasaction="ignore")


def read_log(path: Path) -> list[dict[str, str]]:
    """Read metrics.csv or probes.csv; return no rows if the file does not exist.

    Raises:
        StoreError: The file is damaged.
    """
    if not path.exists():
        return []
    role = FileRole(
        str(path),
        "figures of a training",
        "delete it and repeat the command; the training resumes, and its earlier figures are lost",
    )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise role.damaged(error) from None
    header, *lines = csv_text.read_rows(csv_text.decode_text(content, role), role) or [[]]
    # The last line may be incomplete if the training was killed.
    rows = [dict(zip(header, cells, strict=True)) for cells in lines if len(cells) == len(header)]
    if any(not row.get("step", "").isdecimal() for row in rows):
        raise role.damaged("a row has no step")
    return rows


def _open_board(folder: Path, after_step: int) -> SummaryWriter | None:
    """Return None if TensorBoard, an optional package, is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=after_step + 1)
