"""Whole states of a training, to go on from: written aside and renamed, read without running anything."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fossilray.config.training import TrainConfig
from fossilray.errors import UsageError, WeightsError
from fossilray.whole_files import make_folder, whole_file

FORMAT = "fossilray-training/1"
_GLOB = "step-*.pt"


@dataclass(frozen=True)
class Position:
    """Where a training stands."""

    step: int = 0
    """Steps of the optimiser taken."""
    epoch: int = 0
    batch: int = 0
    """Batches of this epoch that a worker has taken."""
    seconds: float = 0.0
    """Spent so far, over all the times it was resumed."""


def save_checkpoint(
    folder: Path,
    *,
    config: TrainConfig,
    position: Position,
    world: int,
    method: dict[str, Any],
    optimiser: dict[str, Any],
    kept: int,
) -> Path:
    """Write `step-<number>.pt` and remove all but the last `kept`. Tensors and plain types only.

    No state of random generators is in it: every step's noise is drawn from seed, worker and step.
    """
    make_folder(folder)
    path = folder / f"step-{position.step:08d}.pt"
    state = {
        "format": FORMAT,
        "config": config.model_dump_json(),
        "step": position.step,
        "epoch": position.epoch,
        "batch": position.batch,
        "seconds": position.seconds,
        "world": world,
        "method": method,
        "optimiser": optimiser,
    }
    with whole_file(path) as sink:
        torch.save(state, sink)
    for old in sorted(folder.glob(_GLOB))[:-kept]:
        old.unlink()
    return path


def latest_checkpoint(folder: Path) -> Path | None:
    """The last whole checkpoint of a folder; None where there is none."""
    return max(folder.glob(_GLOB), default=None)


@dataclass(frozen=True)
class Checkpoint:
    """What a file held."""

    path: Path
    position: Position
    world: int
    method: dict[str, torch.Tensor]
    optimiser: dict[str, Any]


def load_checkpoint(path: Path, config: TrainConfig) -> Checkpoint:
    """A checkpoint of a training with the same configuration, but for what changes no result.

    Raises:
        WeightsError: it cannot be read, or is no checkpoint of a training.
        UsageError: the training was another one; the message names what differs.
    """
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise WeightsError(
            f"{path} is no whole checkpoint ({reason[:200]}); remove it to go on from another"
        ) from None
    if not isinstance(held, dict) or held.get("format") != FORMAT:
        raise WeightsError(f"{path} is no {FORMAT} checkpoint; resume from a step-*.pt of a training")
    before = TrainConfig.model_validate_json(held["config"])
    _refuse_other(path, before.what_changes_results(), config.what_changes_results())
    position = Position(held["step"], held["epoch"], held["batch"], held["seconds"])
    return Checkpoint(path, position, held["world"], held["method"], held["optimiser"])


def restore_method(method: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Put the weights back.

    Raises:
        WeightsError: they are of another network; the message names keys.
    """
    fault = None
    try:
        found = method.load_state_dict(checkpoint.method, strict=False)
    except RuntimeError as error:
        fault = " ".join(str(error).split())
    else:
        if found.missing_keys or found.unexpected_keys:
            fault = f"missing {found.missing_keys[:5]}, unexpected {found.unexpected_keys[:5]}"
    if fault is not None:
        raise WeightsError(
            f"{checkpoint.path} is of another network ({fault[:500]}); start in another folder"
        )


def _refuse_other(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    differing = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if differing:
        told = "; ".join(
            f"{name} was {json.dumps(before.get(name))} and is {json.dumps(now.get(name))}"
            for name in differing
        )
        raise UsageError(
            f"{path} is of a training with other settings ({told[:600]}); give the same, or another folder"
        )
