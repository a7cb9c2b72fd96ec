"""What a training leaves to read of its course: two CSV files, and the same for TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fossilray.core.formats import FileRole, csv_text
from fossilray.core.whole_files import cannot_write, make_folder, whole_text
from fossilray.training.checkpoint import Position

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS_CSV, PROBES_CSV = "metrics.csv", "probes.csv"


class TrainingLog:
    """metrics.csv (a row every log_every steps), probes.csv (a row a probe) and tensorboard/."""

    def __init__(self, folder: Path, *, after_step: int) -> None:
        """Rows later than `after_step` are dropped: the training goes on from there, or begins anew at 0."""
        make_folder(folder)
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
        self._begin(rows)

    def append(self, row: Mapping[str, object]) -> None:
        if not self._columns:
            self._columns = list(row)
            self._begin([row])
            return
        try:
            with self._path.open("a", newline="", encoding="utf-8") as file:
                self._writer(file).writerow(row)
        except OSError as error:
            raise cannot_write(self._path, error) from None

    def _begin(self, rows: Sequence[Mapping[str, object]]) -> None:
        with whole_text(self._path, newline="") as file:
            writer = self._writer(file)
            if self._columns:
                writer.writeheader()
            writer.writerows(rows)

    def _writer(self, file: IO[str]) -> csv.DictWriter[str]:
        return csv.DictWriter(file, self._columns, restval="", extrasaction="ignore")


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file that this module wrote; none where there is no file."""
    if not path.exists():
        return []
    role = FileRole(
        str(path),
        "figures of a training",
        "delete it and start the same command again; the training goes on, its earlier figures are lost",
    )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise role.damaged(error) from None
    header, *lines = csv_text.read_rows(csv_text.decode_text(content, role), role) or [[]]
    # The last line of a training that was killed may be a part of one.
    rows = [dict(zip(header, cells, strict=True)) for cells in lines if len(cells) == len(header)]
    if any(not row.get("step", "").isdecimal() for row in rows):
        raise role.damaged("a row states no step")
    return rows


def _open_board(folder: Path, after_step: int) -> SummaryWriter | None:
    """None without TensorBoard, which is an extra; the CSV files say the same."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=after_step + 1)
