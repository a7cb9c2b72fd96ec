"""The detector that a configuration asks for, and the digest of its weights."""

from __future__ import annotations

import hashlib
import zipfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from fossilray.core.config import DetectorConfig
from fossilray.core.errors import WeightsError
from fossilray.core.types import Detector
from fossilray.models.detectors.classical import ClassicalDetector
from fossilray.models.detectors.exported import ExportedDetector, load_onnx, load_torchscript
from fossilray.models.detectors.ultralytics_network import build_network
from fossilray.models.detectors.ultralytics_weights import read_checkpoint
from fossilray.models.detectors.weights_file import read_weights
from fossilray.models.detectors.yolo import YoloDetector
from fossilray.models.device import Precision
from fossilray.models.files.stored_pickle import TorchFileError
from fossilray.models.files.torch_file import as_faults

if TYPE_CHECKING:
    import torch

BUNDLED = Path(str(resources.files("fossilray.models") / "weights" / "detector.safetensors"))


def load_detector(
    config: DetectorConfig, *, device: torch.device | str, precision: Precision = "auto"
) -> Detector:
    """The configured detector, on the device, ready to run.

    precision: of ultralytics networks; exported ones run as they were exported.

    Raises:
        WeightsError: the weights are missing, of another architecture, or unsafe to load.
    """
    if config.kind == "classical":
        return ClassicalDetector(config)
    path = _existing_weights(config)
    kind = path.suffix.lower()
    if kind == ".onnx":
        network = load_onnx(path, device=device)
        return ExportedDetector(network, config=config, device=device, subject=path.name)
    if kind == ".torchscript" or (kind in {".pt", ".pth"} and _is_torchscript(path)):
        network = load_torchscript(path, device=device)
        return ExportedDetector(network, config=config, device=device, subject=path.name)
    if kind == ".safetensors":
        state, meta = read_weights(path)
        architecture, nc, asked = meta.architecture, meta.nc, meta.invert
    elif kind in {".pt", ".pth"}:
        architecture, nc, state = read_checkpoint(path)
        asked = True  # as the paper; a foreign file does not say
    else:
        raise WeightsError(
            f"{path} is of no kind fossilray reads; detector.weights takes .safetensors, .pt, .onnx or .torchscript"
        )
    invert = asked if config.invert is None else config.invert
    built = build_network(architecture, nc=nc, state=state, source=path)
    return YoloDetector(built, config=config, invert=invert, device=device, precision=precision)


def detector_digest(config: DetectorConfig) -> dict[str, str]:
    """sha256 of the weights under their file name; empty for a detector without weights.

    Raises:
        WeightsError: the weights are missing.
    """
    if config.kind == "classical":
        return {}
    path = _existing_weights(config)
    with path.open("rb") as file:
        return {path.name: hashlib.file_digest(file, "sha256").hexdigest()}


def _existing_weights(config: DetectorConfig) -> Path:
    if config.weights == "bundled":
        if not BUNDLED.is_file():
            raise WeightsError(
                f"this installation lacks its bundled detector {BUNDLED}; reinstall fossilray, or set detector.weights"
            )
        return BUNDLED
    path = Path(config.weights).expanduser()
    if not path.is_file():
        raise WeightsError(f"detector weights {path} do not exist; set detector.weights")
    return path


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    try:
        with as_faults(), zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except TorchFileError:
        return False  # what reads it next says what is wrong
