"""Checkpoints of a training: written atomically, and read without executing any pickled code."""

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

from fossilray.core.atomic_files import atomic_file, make_folder
from fossilray.core.config.training import TrainConfig
from fossilray.core.errors import UsageError, WeightsError
from fossilray.core.formats import FileRole, parse_json
from fossilray.models.files.stored_pickle import TensorRecord, TorchFileError
from fossilray.models.files.tensors import first_validation_error
from fossilray.models.files.torch_file import TorchFile, open_torch_file

_FORMAT = "fossilray-training/1"
_GLOB = f"step-{8 * '[0-9]'}.pt"
"""Only files of this name are ever deleted."""
_KNOWN = frozenset({"collections.OrderedDict"})
"""Pickled names that a checkpoint may contain besides tensors."""


@dataclass(frozen=True)
class Position:
    """Progress of a training: what to resume from."""

    step: int = 0
    """Optimiser steps taken."""
    epoch: int = 0
    batch: int = 0
    """Batches of this epoch that each worker has used."""
    seconds: float = 0.0
    """Training time, summed over all resumptions."""


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
    """Write `step-<number>.pt` and delete all but the last `kept` checkpoints.

    A checkpoint contains tensors and plain types only. It has no state of random generators, as the noise of every
    step is seeded by the configured seed, the worker and the step.
    """
    make_folder(folder)
    path = folder / f"step-{position.step:08d}.pt"
    state = {
        "format": _FORMAT,
        "config": config.model_dump_json(),
        "step": position.step,
        "epoch": position.epoch,
        "batch": position.batch,
        "seconds": position.seconds,
        "world": world,
        "method": method,
        "optimiser": optimiser,
    }
    with atomic_file(path) as sink:
        torch.save(state, sink)
    for old in sorted(folder.glob(_GLOB))[:-kept]:
        old.unlink()
    return path


def is_checkpoint(name: str) -> bool:
    """Return whether a file name is that of a checkpoint."""
    return fnmatch.fnmatchcase(name, _GLOB)


def remove_checkpoints(folder: Path) -> None:
    """Delete the checkpoints in a folder, and the folder if it is then empty. Does nothing to a symbolic link."""
    if folder.is_symlink():
        return
    for path in folder.glob(_GLOB):
        path.unlink()
    with suppress(OSError):
        folder.rmdir()


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the latest checkpoint in a folder, or None."""
    return max(folder.glob(_GLOB), default=None)


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint."""

    path: Path
    position: Position
    world: int
    method: dict[str, torch.Tensor]
    optimiser: dict[str, Any]


class _Header(BaseModel):
    """The scalar fields of a checkpoint."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    config: str = Field(max_length=10_000_000)
    step: int = Field(ge=0, le=2**53)
    epoch: int = Field(ge=0, le=2**53)
    batch: int = Field(ge=0, le=2**53)
    seconds: float = Field(ge=0)
    world: int = Field(ge=1, le=1_000_000)


def load_checkpoint(path: Path, config: TrainConfig) -> Checkpoint:
    """Read a checkpoint of a training with the same configuration.

    Fields that do not change results may differ.

    Raises:
        WeightsError: The file cannot be read, or is not a checkpoint.
        UsageError: The training's configuration differs; the message names the fields.
    """
    role = FileRole(str(path), "a training's checkpoint", "delete it to resume from another", WeightsError)
    try:
        with open_torch_file(path, is_known=lambda name: name in _KNOWN) as file:
            content = file.content
            if not isinstance(content, dict) or content.get("format") != _FORMAT:
                raise WeightsError(
                    f"{path} is not a {_FORMAT} checkpoint; resume from a step-*.pt of a training"
                )
            header = _Header.model_validate(content)
            parse_json(header.config, role)
            before = TrainConfig.model_validate_json(header.config)
            _require_same_settings(path, before.what_changes_results(), config.what_changes_results())
            method = _tensors(file, content.get("method"))
            optimiser = _optimiser(file, content.get("optimiser"))
    except ValidationError as error:
        raise WeightsError(
            f"{path} is not a complete checkpoint ({first_validation_error(error)}); delete it to resume from another"
        ) from None
    except (TorchFileError, OSError) as error:
        raise WeightsError(
            f"{path} is not a complete checkpoint ({error}); delete it to resume from another"
        ) from None
    position = Position(header.step, header.epoch, header.batch, header.seconds)
    return Checkpoint(path, position, header.world, method, optimiser)


def _tensors(file: TorchFile, state: Any) -> dict[str, torch.Tensor]:
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(record, TensorRecord) for name, record in state.items()
    ):
        raise TorchFileError("its weights are not tensors by name")
    return {name: file.tensor(record, as_stored=True) for name, record in state.items()}


def _optimiser(file: TorchFile, content: Any) -> dict[str, Any]:
    """Check and read the state of a PyTorch optimiser: groups of plain settings, and tensors by parameter number."""
    groups = content.get("param_groups") if isinstance(content, dict) else None
    states = content.get("state") if isinstance(content, dict) else None
    if not isinstance(groups, list) or not isinstance(states, dict):
        raise TorchFileError("its optimiser's state has no groups or no parameters")
    for group in groups:
        numbers = group.get("params") if isinstance(group, dict) else None
        if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
            raise TorchFileError("a group of its optimiser names no parameters")
        if not all(_is_setting(value) for name, value in group.items() if name != "params"):
            raise TorchFileError("a group of its optimiser contains more than settings")
    read: dict[Any, dict[str, Any]] = {}
    for number, values in states.items():
        if type(number) is not int or not isinstance(values, dict):
            raise TorchFileError("its optimiser's state is not by parameter")
        if not all(
            value is None or isinstance(value, (int, float, TensorRecord)) for value in values.values()
        ):
            raise TorchFileError("its optimiser's state contains more than numbers")
        read[number] = {
            str(name): file.tensor(value, as_stored=True) if isinstance(value, TensorRecord) else value
            for name, value in values.items()
        }
    return {"state": read, "param_groups": groups}


def _is_setting(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return len(value) <= 8 and all(isinstance(element, (int, float)) for element in value)
    return value is None or isinstance(value, (bool, int, float, str))


def restore_method(method: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Load a checkpoint's weights into a method.

    Raises:
        WeightsError: The weights are those of another network; the message names keys.
    """
    expected = method.state_dict()
    missing = sorted(expected.keys() - checkpoint.method.keys())
    unexpected = sorted(checkpoint.method.keys() - expected.keys())
    different = [
        f"{name} is {tensor.dtype} {tuple(tensor.shape)}, "
        f"expected {expected[name].dtype} {tuple(expected[name].shape)}"
        for name, tensor in checkpoint.method.items()
        if name in expected and (tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype)
    ]
    if missing or unexpected or different:
        fault = (
            f"missing {missing[:5]}, unexpected {unexpected[:5]}, of another shape or type {different[:5]}"
        )
        raise WeightsError(
            f"{checkpoint.path} is of another network ({fault[:500]}); start in another folder"
        )
    method.load_state_dict(checkpoint.method)


def restore_optimiser(optimiser: torch.optim.Optimizer, checkpoint: Checkpoint) -> None:
    """Load a checkpoint's optimiser state.

    Raises:
        WeightsError: The state is that of another network or another optimiser.
    """
    expected, stored = optimiser.state_dict()["param_groups"], checkpoint.optimiser["param_groups"]
    shapes = [tuple(parameter.shape) for group in optimiser.param_groups for parameter in group["params"]]
    fits = len(expected) == len(stored) and all(
        group["params"] == other["params"]
        and group.keys() == other.keys()
        and all(_are_compatible(group[name], other[name]) for name in group if name != "params")
        for group, other in zip(expected, stored, strict=True)
    )
    for number, values in checkpoint.optimiser["state"].items():
        fits = fits and 0 <= number < len(shapes)
        for value in values.values():
            fits = fits and (
                not isinstance(value, torch.Tensor) or tuple(value.shape) in ((), shapes[number])
            )
    if not fits:
        raise WeightsError(
            f"{checkpoint.path} contains the state of another optimiser or network; start in another folder"
        )
    optimiser.load_state_dict(checkpoint.optimiser)


def _are_compatible(setting: Any, stored: Any) -> bool:
    """Return whether two settings are equal, or both are finite numbers, which schedules change."""
    numbers = (int, float)
    if isinstance(setting, bool) or isinstance(stored, bool):
        return setting is stored
    if isinstance(setting, numbers) and isinstance(stored, numbers):
        return math.isfinite(stored)
    return bool(setting == stored)


def _require_same_settings(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    differing = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if differing:
        changes = "; ".join(
            f"{name} was {json.dumps(before.get(name))} and is {json.dumps(now.get(name))}"
            for name in differing
        )
        raise UsageError(
            f"{path} is of a training with other settings ({changes[:600]}); give the same, or another folder"
        )
