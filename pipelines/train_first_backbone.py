"""Train the first bundled backbone on crops sorted into one folder per class, and judge it on held-out classes."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from fossilray.embed.backbone_file import BackboneMeta, save_backbone
from fossilray.learn.first_backbone import FirstRecipe, judge_network, random_network, train_first_backbone
from fossilray.learn.labelled_crops import hold_out, load_labelled_crops


def main() -> None:
    """Train, judge, save; prints the figures as JSON."""
    asked = _parse()
    import torch

    torch.set_num_threads(asked.threads)
    recipe = FirstRecipe() if asked.recipe is None else FirstRecipe(**json.loads(asked.recipe))
    crops = load_labelled_crops(asked.crops, side_px=128)
    numbers = dict(zip((folder.name for folder in asked.crops), asked.hold_out, strict=True))
    held = hold_out(crops.classes, numbers, rng=np.random.default_rng(asked.seed))
    known = crops.of_classes([name for name in crops.classes if name not in held])
    print(f"{len(known)} crops of {len(known.classes)} classes; held out: {', '.join(held)}", flush=True)
    trained = train_first_backbone(
        known,
        recipe,
        seed=asked.seed,
        steps=asked.steps,
        minutes=asked.minutes,
        report=lambda line: print(line, flush=True),
    )
    figures: dict[str, object] = {
        "steps": trained.steps,
        "seconds": round(trained.seconds),
        "loss": trained.loss,
    }
    untaught = random_network(recipe, seed=asked.seed)
    for folder in sorted({name.split("/")[0] for name in held}):
        some = crops.of_classes([name for name in held if name.split("/")[0] == folder])
        figures[folder] = {
            "trained": asdict(judge_network(trained.network, some, recipe.preprocessing)),
            "random": asdict(judge_network(untaught, some, recipe.preprocessing)),
        }
    print(json.dumps(figures, indent=2))
    if asked.out is not None:
        meta = BackboneMeta(
            name=asked.name,
            architecture=recipe.architecture,
            kwargs=recipe.kwargs,
            dimension=trained.dimension,
            input_px=recipe.input_px,
            mean=recipe.preprocessing.mean,
            std=recipe.preprocessing.std,
            interpolation=recipe.preprocessing.interpolation,
        )
        save_backbone(asked.out, state_dict=trained.network.state_dict(), meta=meta)
        print(f"{asked.out}: {asked.out.stat().st_size / 1e6:.1f} MB")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crops", type=Path, nargs="+", required=True, help="folders of <class>/<image>")
    parser.add_argument("--out", type=Path, help="the .safetensors file to write; unset: only judge")
    parser.add_argument("--name", default="fossilray-first", help="what its embeddings are called")
    parser.add_argument(
        "--minutes", type=float, default=20, help="time to train for, unless --steps is given"
    )
    parser.add_argument("--steps", type=int, help="steps to train for; repeats exactly")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument(
        "--hold-out", type=int, nargs="+", required=True, help="classes kept for judging, a number per folder"
    )
    parser.add_argument("--recipe", help="fields of FirstRecipe as JSON, to try others")
    return parser.parse_args()


if __name__ == "__main__":
    main()
