"""ultralytics checkpoints, read without executing or importing anything that their pickles name.

A checkpoint is a pickled model, which unpickling would execute. Here it is read as data (torch_file.py): the
architecture and the tensors are extracted, and the network is built from the architecture.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fossilray.core.errors import WeightsError
from fossilray.models.detectors.detector_file import detector_role
from fossilray.models.files.open_weights import open_weights
from fossilray.models.files.stored_pickle import ForeignName, StoredObject, TensorRecord, TorchFileError
from fossilray.models.files.torch_file import TorchFile, open_torch_file

if TYPE_CHECKING:
    import torch

_KNOWN_ORIGINS = ("ultralytics.", "torch.", "numpy.", "pathlib.", "collections.")
"""Modules of the classes in an ultralytics checkpoint."""
_KNOWN_NAMES = frozenset(
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
_YOLOV5_ORIGINS = ("models.", "utils.")
_MAX_DEPTH = 50
"""Maximum nesting of modules; the networks of ultralytics need about ten."""
_MAX_MODULES = 50_000


def read_ultralytics_checkpoint(path: Path) -> tuple[dict[str, Any], int, dict[str, torch.Tensor]]:
    """Read the architecture (as ultralytics' YAML), the number of classes and the state dict of a .pt file.

    The averaged weights (`ema`) are preferred. Floats are converted to float32, on the CPU.

    Raises:
        WeightsError: the file is missing, is not a checkpoint, is of YOLOv5, or names an unknown class.
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
        raise _unknown_class(path, error.name) from None
    except (TorchFileError, OSError) as error:
        raise WeightsError(f"{path} is a damaged PyTorch checkpoint ({error}); copy it again") from None


def _read_model(path: Path, file: TorchFile) -> tuple[dict[str, Any], int, dict[str, torch.Tensor]]:
    model = _model_in(path, file.content)
    architecture = model.fields.get("yaml")
    nc = architecture.get("nc") if isinstance(architecture, dict) else None
    if not isinstance(architecture, dict) or type(nc) is not int or nc < 1:
        raise WeightsError(
            f"{path} does not describe how its network is built; export the model to .onnx and set "
            "detector.weights to that"
        )
    records = _tensors_of(model, path)
    return architecture, nc, {name: file.tensor(record) for name, record in records.items()}


def _is_known(name: str) -> bool:
    return name.startswith(_KNOWN_ORIGINS) or name in _KNOWN_NAMES


def _unknown_class(path: Path, name: str) -> WeightsError:
    if name.startswith(_YOLOV5_ORIGINS):
        return WeightsError(
            f"{path} is a YOLOv5 checkpoint, which only YOLOv5's own program can open. In a YOLOv5 checkout run "
            f"`python export.py --weights {path.name} --include onnx --dynamic`, then set detector.weights to "
            f"{path.stem}.onnx (see docs/guide/detectors.md)"
        )
    return WeightsError(
        f"{path} names {name[:100]}, which no ultralytics detection model needs; it was not loaded. If you "
        "trust it, export the model to .onnx or .torchscript where it was trained"
    )


def _model_in(path: Path, loaded: object) -> StoredObject:
    if isinstance(loaded, dict):
        for key in ("ema", "model"):
            model = loaded.get(key)
            if isinstance(model, StoredObject):
                return model
    if isinstance(loaded, StoredObject):
        return loaded
    raise WeightsError(
        f"{path} holds no ultralytics model under `ema` or `model`; give a .pt as ultralytics writes it, or an "
        "exported .onnx"
    )


def _tensors_of(model: StoredObject, path: Path) -> dict[str, TensorRecord]:
    """Return the tensors of the model's state dict by their keys."""
    tensors: dict[str, TensorRecord] = {}
    waiting = [("", model, 0)]
    count = 0
    while waiting:
        prefix, module, depth = waiting.pop()
        count += 1
        if depth > _MAX_DEPTH or count > _MAX_MODULES:
            raise WeightsError(
                f"{path}: modules are nested more than {_MAX_DEPTH} deep, or there are more than {_MAX_MODULES:,}; "
                "give a .pt as ultralytics writes it"
            )
        fields = {name: module.fields.get(name) for name in ("_parameters", "_buffers", "_modules")}
        parameters, buffers, children = (
            field if isinstance(field, dict) else {} for field in fields.values()
        )
        non_persistent = module.fields.get("_non_persistent_buffers_set")
        left_out = non_persistent if isinstance(non_persistent, (set, frozenset)) else frozenset()
        for name, tensor in {**parameters, **buffers}.items():
            if isinstance(tensor, TensorRecord) and name not in left_out:
                tensors[f"{prefix}{name}"] = tensor
        waiting += [
            (f"{prefix}{name}.", child, depth + 1)
            for name, child in children.items()
            if isinstance(child, StoredObject)
        ]
    return tensors
