"""Whole states of a training, to go on from: written aside and renamed, read without running anything."""

from __future__ import annotations

import fnmatch
import json
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fossilray.core.config.training import TrainConfig
from fossilray.core.errors import UsageError, WeightsError
from fossilray.core.formats import FileRole, parse_json
from fossilray.core.whole_files import make_folder, whole_file
from fossilray.models.files.stored_pickle import TensorRecord, TorchFileError
from fossilray.models.files.tensors import first_fault
from fossilray.models.files.torch_file import TorchFile, open_torch_file

FORMAT = "fossilray-training/1"
_GLOB = f"step-{8 * '[0-9]'}.pt"
"""No other files of a folder are ever deleted."""
_KNOWN = frozenset({"collections.OrderedDict"})
"""What a checkpoint names besides tensors."""


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


def is_checkpoint(name: str) -> bool:
    """Whether a file has the name of a checkpoint."""
    return fnmatch.fnmatchcase(name, _GLOB)


def remove_checkpoints(folder: Path) -> None:
    """Delete the checkpoints in a folder, and the folder if nothing else is in it. A link is left alone."""
    if folder.is_symlink():
        return
    for path in folder.glob(_GLOB):
        path.unlink()
    with suppress(OSError):
        folder.rmdir()


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


class _Stated(BaseModel):
    """A checkpoint but for its tensors."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    config: str = Field(max_length=10_000_000)
    step: int = Field(ge=0, le=2**53)
    epoch: int = Field(ge=0, le=2**53)
    batch: int = Field(ge=0, le=2**53)
    seconds: float = Field(ge=0)
    world: int = Field(ge=1, le=1_000_000)


def load_checkpoint(path: Path, config: TrainConfig) -> Checkpoint:
    """A checkpoint of a training with the same configuration, but for what changes no result.

    Raises:
        WeightsError: it cannot be read, or is no checkpoint of a training.
        UsageError: the training was another one; the message names what differs.
    """
    role = FileRole(str(path), "a training's checkpoint", "remove it to go on from another", WeightsError)
    try:
        with open_torch_file(path, is_known=lambda name: name in _KNOWN) as file:
            held = file.content
            if not isinstance(held, dict) or held.get("format") != FORMAT:
                raise WeightsError(f"{path} is no {FORMAT} checkpoint; resume from a step-*.pt of a training")
            stated = _Stated.model_validate(held)
            parse_json(stated.config, role)
            before = TrainConfig.model_validate_json(stated.config)
            _refuse_other(path, before.what_changes_results(), config.what_changes_results())
            method = _tensors(file, held.get("method"))
            optimiser = _optimiser(file, held.get("optimiser"))
    except ValidationError as error:
        raise WeightsError(
            f"{path} is no whole checkpoint ({first_fault(error)}); remove it to go on from another"
        ) from None
    except (TorchFileError, OSError) as error:
        raise WeightsError(
            f"{path} is no whole checkpoint ({error}); remove it to go on from another"
        ) from None
    position = Position(stated.step, stated.epoch, stated.batch, stated.seconds)
    return Checkpoint(path, position, stated.world, method, optimiser)


def _tensors(file: TorchFile, stated: Any) -> dict[str, torch.Tensor]:
    if not isinstance(stated, dict) or not all(
        isinstance(name, str) and isinstance(one, TensorRecord) for name, one in stated.items()
    ):
        raise TorchFileError("its weights are no tensors by name")
    return {name: file.tensor(record, as_stored=True) for name, record in stated.items()}


def _optimiser(file: TorchFile, stated: Any) -> dict[str, Any]:
    """What a PyTorch optimiser says of itself: groups of plain settings, and tensors by the number of a parameter."""
    groups = stated.get("param_groups") if isinstance(stated, dict) else None
    states = stated.get("state") if isinstance(stated, dict) else None
    if not isinstance(groups, list) or not isinstance(states, dict):
        raise TorchFileError("its optimiser's state is none")
    for group in groups:
        numbers = group.get("params") if isinstance(group, dict) else None
        if not isinstance(numbers, list) or not all(type(one) is int for one in numbers):
            raise TorchFileError("a group of its optimiser names no parameters")
        if not all(_is_setting(value) for name, value in group.items() if name != "params"):
            raise TorchFileError("a group of its optimiser holds more than settings")
    found: dict[Any, dict[str, Any]] = {}
    for number, parts in states.items():
        if type(number) is not int or not isinstance(parts, dict):
            raise TorchFileError("its optimiser's state is not by parameter")
        if not all(one is None or isinstance(one, (int, float, TensorRecord)) for one in parts.values()):
            raise TorchFileError("its optimiser's state holds more than numbers")
        found[number] = {
            str(name): file.tensor(one, as_stored=True) if isinstance(one, TensorRecord) else one
            for name, one in parts.items()
        }
    return {"state": found, "param_groups": groups}


def _is_setting(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return len(value) <= 8 and all(isinstance(one, (int, float)) for one in value)
    return value is None or isinstance(value, (bool, int, float, str))


def restore_method(method: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Put the weights back.

    Raises:
        WeightsError: they are of another network; the message names keys.
    """
    own = method.state_dict()
    missing = sorted(own.keys() - checkpoint.method.keys())
    unexpected = sorted(checkpoint.method.keys() - own.keys())
    other = [
        f"{name} is {one.dtype} {tuple(one.shape)}, expected {own[name].dtype} {tuple(own[name].shape)}"
        for name, one in checkpoint.method.items()
        if name in own and (one.shape != own[name].shape or one.dtype != own[name].dtype)
    ]
    if missing or unexpected or other:
        fault = f"missing {missing[:5]}, unexpected {unexpected[:5]}, of another shape or type {other[:5]}"
        raise WeightsError(
            f"{checkpoint.path} is of another network ({fault[:500]}); start in another folder"
        )
    method.load_state_dict(checkpoint.method)


def restore_optimiser(optimiser: torch.optim.Optimizer, checkpoint: Checkpoint) -> None:
    """Put back what the optimiser knew of each parameter.

    Raises:
        WeightsError: it is of another network or another optimiser.
    """
    own, held = optimiser.state_dict()["param_groups"], checkpoint.optimiser["param_groups"]
    shapes = [tuple(one.shape) for group in optimiser.param_groups for one in group["params"]]
    fits = len(own) == len(held) and all(
        mine["params"] == other["params"]
        and mine.keys() == other.keys()
        and all(_alike(mine[name], other[name]) for name in mine if name != "params")
        for mine, other in zip(own, held, strict=True)
    )
    for number, parts in checkpoint.optimiser["state"].items():
        fits = fits and 0 <= number < len(shapes)
        for part in parts.values():
            fits = fits and (not isinstance(part, torch.Tensor) or tuple(part.shape) in ((), shapes[number]))
    if not fits:
        raise WeightsError(
            f"{checkpoint.path} holds the state of another optimiser or network; start in another folder"
        )
    optimiser.load_state_dict(checkpoint.optimiser)


def _alike(one: Any, other: Any) -> bool:
    """Settings of one kind: numbers, which schedules change, or the same value."""
    numbers = (int, float)
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, numbers) and isinstance(other, numbers):
        return math.isfinite(other)
    return bool(one == other)


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
