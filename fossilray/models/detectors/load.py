"""Loading of the detector that the configuration names, and the digest of its weights."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from fossilray.core.config import DetectorConfig
from fossilray.core.config.choices import Precision
from fossilray.core.errors import WeightsError
from fossilray.core.types import Detector
from fossilray.models.detectors.classical import ClassicalDetector
from fossilray.models.detectors.detector_file import detector_role, read_detector
from fossilray.models.detectors.exported import ExportedDetector, load_onnx, load_torchscript
from fossilray.models.detectors.ultralytics_network import build_detector_network
from fossilray.models.detectors.ultralytics_weights import read_ultralytics_checkpoint
from fossilray.models.detectors.yolo import YoloDetector
from fossilray.models.files.open_weights import missing_weights, open_weights
from fossilray.models.files.stored_pickle import TorchFileError
from fossilray.models.files.torch_file import reporting_damage
from fossilray.models.weights_file import bundled_weights, weights_digest

if TYPE_CHECKING:
    import torch


def load_detector(
    config: DetectorConfig, *, device: torch.device | str, precision: Precision = "auto"
) -> Detector:
    """Load the configured detector on a device.

    precision: precision of ultralytics networks; exported networks run as they were exported.

    Raises:
        WeightsError: the weights are missing, of another architecture, or unsafe to load.
    """
    if config.kind == "classical":
        return ClassicalDetector(config)
    path = _weights_path(config)
    kind = path.suffix.lower()
    if kind == ".onnx":
        exported = load_onnx(path, device=device)
        return ExportedDetector(exported, config=config, device=device, subject=path.name)
    if kind == ".torchscript" or (kind in {".pt", ".pth"} and _is_torchscript(path)):
        exported = load_torchscript(path, device=device)
        return ExportedDetector(exported, config=config, device=device, subject=path.name)
    if kind == ".safetensors":
        state, meta = read_detector(path)
        architecture, nc, default_invert = meta.architecture, meta.nc, meta.invert
    elif kind in {".pt", ".pth"}:
        architecture, nc, state = read_ultralytics_checkpoint(path)
        default_invert = True  # as in the paper; files of other programs do not state it
    else:
        raise WeightsError(
            f"{path} has an unknown suffix; detector.weights takes .safetensors, .pt, .onnx or .torchscript"
        )
    invert = default_invert if config.invert is None else config.invert
    network = build_detector_network(architecture, nc=nc, state=state, source=path)
    return YoloDetector(network, config=config, invert=invert, device=device, precision=precision)


def detector_digest(config: DetectorConfig) -> dict[str, str]:
    """Return the sha256 of the weights by the name of their file; {} for a detector without weights.

    Raises:
        WeightsError: the weights are missing or cannot be read.
    """
    if config.kind == "classical":
        return {}
    path = _weights_path(config)
    return {path.name: weights_digest(path, detector_role(path))}


def _weights_path(config: DetectorConfig) -> Path:
    """Return the path of the weights, which exists."""
    bundled = config.weights == "bundled"
    path = bundled_weights("detector") if bundled else Path(config.weights).expanduser()
    if path.exists():
        return path
    if bundled:
        raise WeightsError(
            f"this installation lacks its bundled detector {path}; reinstall fossilray, or set detector.weights"
        )
    raise missing_weights(detector_role(path))


def _is_torchscript(path: Path) -> bool:
    try:
        with open_weights(path, detector_role(path)) as file, reporting_damage():
            if not zipfile.is_zipfile(file):
                return False
            with zipfile.ZipFile(file) as archive:
                return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except TorchFileError:
        return False  # the reader of PyTorch checkpoints reports the damage
