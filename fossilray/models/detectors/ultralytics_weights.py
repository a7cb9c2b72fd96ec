"""Reads an ultralytics checkpoint without running or even building anything that its pickle names.

Such a file is a pickled model: a program that unpickling runs. Here it is read as data (torch_file.py); the
architecture and the tensors are taken out of it, and the network is built anew from the architecture.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fossilray.core.errors import WeightsError
from fossilray.models.detectors.detector_file import detector_role
from fossilray.models.files.open_weights import open_weights
from fossilray.models.files.stored_pickle import ForeignName, Stored, TensorRecord, TorchFileError
from fossilray.models.files.torch_file import TorchFile, open_torch_file

if TYPE_CHECKING:
    import torch

KNOWN_ORIGINS = ("ultralytics.", "torch.", "numpy.", "pathlib.", "collections.")
"""Whose classes an ultralytics checkpoint names."""
KNOWN_NAMES = frozenset(
    {
        "builtins.getattr",
        "builtins.slice",
        "builtins.set",
        "types.SimpleNamespace",
        "argparse.Namespace",
        "_codecs.encode",
        "copyreg._reconstructor",
        "builtins.object",
    }
)
YOLOV5_ORIGINS = ("models.", "utils.")
DEEPEST = 50
"""Modules inside modules; the networks of ultralytics need about ten."""
MOST_MODULES = 50_000


def read_ultralytics_checkpoint(path: Path) -> tuple[dict[str, Any], int, dict[str, torch.Tensor]]:
    """The architecture (as ultralytics' YAML), the number of classes and the state dict of a .pt file.

    Takes the averaged weights (`ema`) where there are any. Floats come as float32, on CPU.

    Raises:
        WeightsError: missing, no checkpoint, of YOLOv5, or naming anything an ultralytics model does not need.
    """
    with open_weights(path, detector_role(path)) as file:
        is_archive = zipfile.is_zipfile(file)
    if not is_archive:
        raise WeightsError(
            f"{path} is not a PyTorch checkpoint (no zip archive inside); give a .pt as ultralytics writes it"
        )
    try:
        with open_torch_file(path, is_known=_is_known) as file:
            return _read_model(path, file)
    except ForeignName as error:
        raise _stranger(path, error.name) from None
    except (TorchFileError, OSError) as error:
        raise WeightsError(f"{path} is a damaged PyTorch checkpoint ({error}); copy it again") from None


def _read_model(path: Path, file: TorchFile) -> tuple[dict[str, Any], int, dict[str, torch.Tensor]]:
    model = _model_in(path, file.content)
    architecture = model.fields.get("yaml")
    nc = architecture.get("nc") if isinstance(architecture, dict) else None
    if not isinstance(architecture, dict) or type(nc) is not int or nc < 1:
        raise WeightsError(
            f"{path} does not say how its network is built; export the model to .onnx and set "
            "detector.weights to that"
        )
    records = _tensors_of(model, path)
    return architecture, nc, {name: file.tensor(record) for name, record in records.items()}


def _is_known(name: str) -> bool:
    return name.startswith(KNOWN_ORIGINS) or name in KNOWN_NAMES


def _stranger(path: Path, name: str) -> WeightsError:
    if name.startswith(YOLOV5_ORIGINS):
        return WeightsError(
            f"{path} is a YOLOv5 checkpoint, which only YOLOv5's own program can open. In a YOLOv5 checkout run "
            f"`python export.py --weights {path.name} --include onnx --dynamic`, then set detector.weights to "
            f"{path.stem}.onnx (docs/guide/detectors.md tells more)"
        )
    return WeightsError(
        f"{path} asks for {name[:100]}, which no ultralytics detection model needs; it was not loaded. If you "
        "trust it, export the model to .onnx or .torchscript where it was trained"
    )


def _model_in(path: Path, loaded: object) -> Stored:
    if isinstance(loaded, dict):
        for key in ("ema", "model"):
            model = loaded.get(key)
            if isinstance(model, Stored):
                return model
    if isinstance(loaded, Stored):
        return loaded
    raise WeightsError(
        f"{path} holds no ultralytics model under `ema` or `model`; give a .pt as ultralytics writes it, or an "
        "exported .onnx"
    )


def _tensors_of(model: Stored, path: Path) -> dict[str, TensorRecord]:
    """What the model's state dict would name, and where it lies."""
    found: dict[str, TensorRecord] = {}
    waiting = [("", model, 0)]
    count = 0
    while waiting:
        prefix, module, depth = waiting.pop()
        count += 1
        if depth > DEEPEST or count > MOST_MODULES:
            raise WeightsError(
                f"{path}: modules lie more than {DEEPEST} deep, or are more than {MOST_MODULES:,}; this is no "
                "ultralytics model"
            )
        fields = {name: module.fields.get(name) for name in ("_parameters", "_buffers", "_modules")}
        parameters, buffers, children = (one if isinstance(one, dict) else {} for one in fields.values())
        passing = module.fields.get("_non_persistent_buffers_set")
        left_out = passing if isinstance(passing, (set, frozenset)) else frozenset()
        for name, tensor in {**parameters, **buffers}.items():
            if isinstance(tensor, TensorRecord) and name not in left_out:
                found[f"{prefix}{name}"] = tensor
        waiting += [
            (f"{prefix}{name}.", child, depth + 1)
            for name, child in children.items()
            if isinstance(child, Stored)
        ]
    return found
