"""Reads an ultralytics checkpoint without running or even building anything that its pickle names.

Such a file is a pickled model: a program that unpickling runs. Here every class it names is replaced by an
empty shell that only keeps what is stored in it; the architecture and the tensors are then taken out of the
shells, and the network is built anew from the architecture.
"""

from __future__ import annotations

import pickle
import threading
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fossilray.errors import WeightsError

if TYPE_CHECKING:
    import torch

KNOWN_ORIGINS = ("ultralytics.", "torch.nn.", "numpy.", "pathlib.")
"""Whose classes an ultralytics checkpoint names."""
KNOWN_NAMES = frozenset({"builtins.getattr", "builtins.slice", "types.SimpleNamespace", "argparse.Namespace"})
YOLOV5_ORIGINS = ("models.", "utils.")
DEEPEST = 50
"""Modules inside modules; the networks of ultralytics need about ten."""

_registering = threading.Lock()


class _Shell:
    """Stands for an object of any class: keeps its stored fields, does nothing."""

    def __new__(cls, *_: object) -> _Shell:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        """Whatever the class would have been built from."""

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def read_checkpoint(path: Path) -> tuple[dict[str, Any], int, dict[str, torch.Tensor]]:
    """The architecture (as ultralytics' YAML), the number of classes and the state dict of a .pt file.

    Takes the averaged weights (`ema`) where there are any. Floats come as float32, on CPU.

    Raises:
        WeightsError: missing, no checkpoint, of YOLOv5, or naming anything an ultralytics model does not need.
    """

    model = _model_in(path, _load_as_shells(path))
    architecture = vars(model).get("yaml")
    if not isinstance(architecture, dict) or not isinstance(architecture.get("nc"), int):
        raise WeightsError(
            f"{path} does not say how its network is built; export the model to .onnx and set "
            "detector.weights to that"
        )
    state: dict[str, torch.Tensor] = {}
    _collect(model, "", state, path=path, depth=0)
    return architecture, architecture["nc"], state


def _load_as_shells(path: Path) -> object:
    import torch

    if not path.is_file():
        raise WeightsError(f"detector weights {path} do not exist; set detector.weights")
    if not zipfile.is_zipfile(path):
        raise WeightsError(
            f"{path} is not a PyTorch checkpoint (no zip archive inside); give a .pt as ultralytics writes it"
        )
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        _refuse_strangers(path, named)
        shells: list[Any] = [(type(name.rpartition(".")[2], (_Shell,), {}), name) for name in named]
        with _registering, torch.serialization.safe_globals(shells):
            loaded: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n", 1)[0]
        raise WeightsError(
            f"{path} holds more than weights and is not loaded ({reason}); export the model to .onnx or "
            ".torchscript and set detector.weights to that"
        ) from None
    except (RuntimeError, EOFError, LookupError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is a damaged PyTorch checkpoint ({error}); copy it again") from None
    return loaded


def _refuse_strangers(path: Path, named: list[str]) -> None:
    if any(name.startswith(YOLOV5_ORIGINS) for name in named):
        raise WeightsError(
            f"{path} is a YOLOv5 checkpoint, which only YOLOv5's own program can open. In a YOLOv5 checkout run "
            f"`python export.py --weights {path.name} --include onnx --dynamic`, then set detector.weights to "
            f"{path.stem}.onnx (docs/detectors.md tells more)"
        )
    for name in named:
        if not name.startswith(KNOWN_ORIGINS) and name not in KNOWN_NAMES:
            raise WeightsError(
                f"{path} asks for {name}, which no ultralytics detection model needs; it was not loaded. If you "
                "trust it, export the model to .onnx or .torchscript where it was trained"
            )


def _model_in(path: Path, loaded: object) -> _Shell:
    if isinstance(loaded, dict):
        for key in ("ema", "model"):
            if isinstance(loaded.get(key), _Shell):
                model: _Shell = loaded[key]
                return model
    if isinstance(loaded, _Shell):
        return loaded
    raise WeightsError(
        f"{path} holds no ultralytics model under `ema` or `model`; give a .pt as ultralytics writes it, or an "
        "exported .onnx"
    )


def _collect(module: _Shell, prefix: str, state: dict[str, torch.Tensor], *, path: Path, depth: int) -> None:
    import torch

    if depth > DEEPEST:
        raise WeightsError(f"{path}: modules lie more than {DEEPEST} deep; this is no ultralytics model")
    fields = vars(module)
    passing = fields.get("_non_persistent_buffers_set") or ()
    for name, tensor in {**(fields.get("_parameters") or {}), **(fields.get("_buffers") or {})}.items():
        if isinstance(tensor, torch.Tensor) and name not in passing:
            state[prefix + name] = tensor.detach().float() if tensor.is_floating_point() else tensor
    for name, child in (fields.get("_modules") or {}).items():
        if isinstance(child, _Shell):
            _collect(child, f"{prefix}{name}.", state, path=path, depth=depth + 1)
