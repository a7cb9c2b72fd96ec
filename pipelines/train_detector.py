"""Train the detector that fossilray ships, from composites alone: no box is drawn by hand.

    python pipelines/train_detector.py --out detector.safetensors --minutes 60
    python pipelines/train_detector.py --out detector.safetensors --crops palynomorphs --crops pollen

On a GPU the same command goes further: `--device cuda --width 2 --composites 20000 --image-px 512 --batch 32
--minutes 240`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fossilray.core.config.choices import Precision
from fossilray.models.detectors.detector_file import save_detector
from fossilray.synthetic.crop_library import CropLibrary
from fossilray.training.detector import data, evaluate, train

HELD_OUT_SEED = 90_000
"""Validation fields are drawn from seeds that no training uses."""


def main(
    *,
    out: Annotated[
        Path, typer.Option(help="The .safetensors file to write, or with --evaluate-only to evaluate.")
    ],
    crops: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of real crops, one subfolder per kind; repeat for several. Unset: painted only."
        ),
    ] = None,
    minutes: Annotated[float, typer.Option(help="Duration of the training, unless --steps is given.")] = 60.0,
    steps: Annotated[int | None, typer.Option(help="Steps of the training; reproducible.")] = None,
    composites: Annotated[int, typer.Option(help="Fields painted before training.")] = 3000,
    image_px: Annotated[int, typer.Option(help="Side of a field in pixels; a multiple of 32.")] = 320,
    batch: Annotated[int, typer.Option(help="Fields per step.")] = 4,
    width: Annotated[float, typer.Option(help="Channels, as a multiple of the shipped network's.")] = 1.0,
    learning_rate: Annotated[float, typer.Option(help="Highest rate of AdamW.")] = 2e-3,
    start_from: Annotated[
        Path | None, typer.Option(help="Weights of the same width to start from; unset: random ones.")
    ] = None,
    device: Annotated[str, typer.Option(help="`auto`, `cpu`, or a torch device such as `cuda:0`.")] = "auto",
    threads: Annotated[int, typer.Option(help="Threads of PyTorch, and processes that paint.")] = 2,
    precision: Annotated[
        Precision,
        typer.Option(help="Precision of the evaluated network: `auto` (half where native) or `float32`."),
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of composites, order and first weights.")] = 1,
    fields: Annotated[int, typer.Option(help="Held-out fields to evaluate on; 0 skips the evaluation.")] = 60,
    evaluate_only: Annotated[
        bool, typer.Option("--evaluate-only", help="Evaluate --out without training.")
    ] = False,
) -> None:
    """Train, save, and print the figures by size class on kinds that the training never saw."""
    import torch

    torch.set_num_threads(threads)
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    console = Console()
    split = data.split_crops(crops or [])
    if split is not None:
        console.print(
            f"{len(split.train.cutouts)} real crops to train on, {len(split.held_out.cutouts)} held out: "
            + ", ".join(split.held_out.kinds)
        )
    if not evaluate_only:
        plan = train.TrainingPlan(
            seed=seed,
            steps=steps,
            minutes=minutes,
            composites=composites,
            image_px=image_px,
            batch=batch,
            width=width,
            learning_rate=learning_rate,
            start_from=start_from,
            device=where,
            workers=threads,
        )
        trained = _train(plan, split.train if split else None, console)
        save_detector(out, state_dict=trained.state_dict, meta=trained.meta)
        console.print(f"{out}: {trained.steps} steps in {trained.seconds / 60:.1f} minutes")
    if fields:
        held_out = evaluate.held_out_fields(
            fields, seed=HELD_OUT_SEED + seed, library=split.held_out if split else None, workers=threads
        )
        for title, rows in evaluate.compare_detectors(out, held_out, device=where, precision=precision):
            console.print(f"\n{title}\n\n{evaluate.figures_table(rows)}", soft_wrap=True, highlight=False)


def _train(plan: train.TrainingPlan, library: CropLibrary | None, console: Console) -> train.TrainedDetector:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        painting = progress.add_task("painting", total=plan.composites)
        fields = data.make_composites(
            plan.composites,
            seed=plan.seed,
            image_px=plan.image_px,
            library=library,
            workers=plan.workers,
            on_done=lambda count: progress.update(painting, completed=count),
        )
        training = progress.add_task("training", total=1000)

        def show(now: train.DetectorProgress) -> None:
            text = f"training, step {now.step}: box {now.box:.3f} cls {now.cls:.3f} dfl {now.dfl:.3f}"
            progress.update(training, completed=round(1000 * now.share), description=text)

        return train.train_detector(plan, fields, on_step=show)


if __name__ == "__main__":
    typer.run(main)
