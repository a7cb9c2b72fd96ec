"""A training on the terminal: a bar, and a line for every probe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from rich.console import Console

    from fossilray.training.loop import TrainingProgress

_PROBED = ("nearest_f1", "precision_at_nk", "knn_accuracy", "embedding_std", "effective_rank")


@contextmanager
def training_progress(console: Console) -> Iterator[Callable[[TrainingProgress], None]]:
    """What to give a Loop as `report`; the bar goes when the block ends."""
    columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("first step", total=1.0)

        def show(progress: TrainingProgress) -> None:
            told = progress.metrics
            if "loss" in told:
                speed = f", {told['images_s']:.0f} crops/s" if "images_s" in told else ""
                line = f"step {progress.step}, epoch {progress.epoch}: loss {told['loss']:.3f}{speed}"
                bar.update(task, completed=progress.share, description=line)
            elif told:
                bar.console.print(
                    f"step {progress.step} ({progress.share:.0%}): {_figures(told)}", highlight=False
                )

        yield show


def _figures(told: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {told[name]:.3f}" for name in _PROBED if name in told)
