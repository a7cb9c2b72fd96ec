"""Recipes: defaults of each training method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RECIPES: dict[str, dict[str, Any]] = {
    "supcon": {"arch": "resnet18", "input_px": 128, "views": {"kind": "fossil", "early_px": 80}},
    "metric": {
        "arch": "resnet18",
        "input_px": 128,
        "views": {"kind": "fossil", "early_px": 80},
        "schedule": {"learning_rate": 1e-3},
    },
    # Liu et al. 2022, published code: Adam at 2e-4, times 0.96 every half epoch, batches of 50 on each of two GPUs,
    # 40 epochs at 299 px.
    "transfer": {
        "init": "timm:inception_resnet_v2",
        "input_px": 299,
        "batch": 100,
        "epochs": 40,
        "views": {"kind": "transfer_crop"},
        "schedule": {
            "optimiser": "adam",
            "learning_rate": 2e-4,
            "decay": "step",
            "step_epochs": 0.5,
            "step_factor": 0.96,
            "warmup_share": 0.0,
            "weight_decay": 0.0,
        },
    },
    # Martinsen et al. 2024: 96 px, batches of 128, Adam at 1e-3 with inverse-time decay of 0.05.
    "simclr": {
        "arch": "legacy_xception",
        "input_px": 96,
        "batch": 128,
        "views": {"kind": "paper"},
        "schedule": {
            "optimiser": "adam",
            "learning_rate": 1e-3,
            "decay": "inverse_time",
            "inverse_time": 0.05,
            "warmup_share": 0.0,
            "weight_decay": 0.0,
        },
    },
    # Caron et al. 2021, appendix: 5e-4 for 256 crops, weight decay 0.04 to 0.4, clipped at 3.
    "dino": {
        "arch": "vit_small_patch16_224",
        "input_px": 224,
        "batch": 64,
        "views": {"kind": "multicrop", "local_px": 96, "local_count": 8},
        "schedule": {
            "learning_rate": 1.25e-4,
            "last_share": 0.01,
            "warmup_share": 0.1,
            "weight_decay": 0.04,
            "last_weight_decay": 0.4,
            "clip": 3.0,
        },
    },
    "byol": {
        "arch": "resnet18",
        "input_px": 96,
        "batch": 128,
        "views": {"kind": "paper"},
        "schedule": {"optimiser": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-4},
    },
    # Chen and He 2021, section 3: SGD at 0.05 for 256 crops, weight decay 1e-4.
    "simsiam": {
        "arch": "resnet18",
        "input_px": 96,
        "batch": 128,
        "views": {"kind": "paper"},
        "schedule": {"optimiser": "sgd", "learning_rate": 0.025, "weight_decay": 1e-4, "warmup_share": 0.0},
    },
}


def recipe_for(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe of the given method, without values that a given network or duration replaces."""
    recipe = dict(RECIPES.get(given.get("method", "supcon"), {}))
    if given.get("init", "scratch") != "scratch":
        recipe.pop("arch", None)
    if given.get("arch") is not None:
        recipe.pop("init", None)
    if any(given.get(name) is not None for name in ("epochs", "steps", "minutes")):
        recipe.pop("epochs", None)
    return recipe


def merge_trees(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two nested mappings; values of `above` replace those of `below`."""
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        merged[name] = merge_trees(under, value) if both and isinstance(under, Mapping) else value
    return merged
