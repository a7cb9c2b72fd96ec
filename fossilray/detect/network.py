"""The only home of ultralytics: its networks without its predictor, its settings files and its network calls."""

from __future__ import annotations

import copy
import importlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fossilray.errors import WeightsError

if TYPE_CHECKING:
    import torch

DETECTION_HEADS = frozenset({"Detect", "v10Detect"})
NEVER_A_LAYER = frozenset({"TorchVision"})
"""Layers of ultralytics that fetch weights from the network when built."""
ACTIVATION = re.compile(r"(torch\.)?nn\.[A-Z]\w*\([\w.=, ]*\)")
"""ultralytics evaluates an architecture's `activation` as Python; nothing but a plain constructor gets there."""

_importing = threading.Lock()


def build_network(
    architecture: Mapping[str, Any], *, nc: int, state: Mapping[str, torch.Tensor], source: Path
) -> torch.nn.Module:
    """An ultralytics detection network with these weights: float32, in eval mode, its norms fused.

    `architecture` may come from a stranger's file: it is checked before ultralytics, which runs parts of it as
    code, sees it. PyTorch's random state is left as it was.

    Raises:
        WeightsError: the architecture is not a detection network, or the weights are not its own.
    """
    import torch

    quiet_ultralytics()
    from ultralytics.nn import tasks

    _check_architecture(architecture, source)
    build: Any = tasks.DetectionModel
    with torch.random.fork_rng(devices=[]):
        try:
            network = build(copy.deepcopy(dict(architecture)), ch=3, nc=nc, verbose=False)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise WeightsError(
                f"{source}: its architecture cannot be built ({type(error).__name__}: {error}); it may come from "
                "another version of ultralytics: export it to .onnx there and set detector.weights to that"
            ) from None
    _load_state(network, state, source)
    network.requires_grad_(False)
    fused: torch.nn.Module = network.eval().fuse(verbose=False)
    return fused


def quiet_ultralytics() -> None:
    """Import ultralytics so that it writes no file, asks no server and changes no global setting.

    At its first import it writes a settings file, looks up hosts, sets environment variables, the number of
    OpenCV threads and print options, and replaces torch.save and PIL's Image.open. What it reads is set around
    that import and what it changed is put back. Call this before importing anything from it.
    """
    with _importing:
        if "ultralytics" in sys.modules:
            return
        import cv2
        import torch
        from PIL import Image

        environment = dict(os.environ)
        numpy_print, opencv_threads = np.get_printoptions(), cv2.getNumThreads()
        save, open_image = torch.save, Image.open
        with tempfile.TemporaryDirectory(prefix="fossilray-") as folder:
            os.environ.update(
                YOLO_CONFIG_DIR=folder, YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false"
            )
            try:
                importlib.import_module("ultralytics.nn.tasks")
            finally:
                _restore_environment(environment)
                np.set_printoptions(**numpy_print)
                reset_print: Any = torch.set_printoptions
                reset_print(profile="default")
                cv2.setNumThreads(opencv_threads)
                torch.save, Image.open = save, open_image


def _restore_environment(before: Mapping[str, str]) -> None:
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    for name, value in before.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _check_architecture(architecture: Mapping[str, Any], source: Path) -> None:
    layers = [*_layers(architecture, "backbone", source), *_layers(architecture, "head", source)]
    for _, _, name, arguments in layers:
        if not _is_layer(name):
            raise WeightsError(
                f"{source}: its architecture names the layer {name!r}, which this ultralytics lacks; "
                "export the model to .onnx where it was trained and set detector.weights to that"
            )
        if not _is_plain(arguments):
            raise WeightsError(
                f"{source}: layer {name!r} has arguments that are not plain values; train it anew"
            )
    activation = architecture.get("activation")
    if activation and not (isinstance(activation, str) and ACTIVATION.fullmatch(activation)):
        raise WeightsError(f"{source}: activation {activation!r} is not a torch.nn layer; train it anew")
    if layers[-1][2] not in DETECTION_HEADS:
        raise WeightsError(
            f"{source}: its head is {layers[-1][2]!r}, not a detection head "
            f"({', '.join(sorted(DETECTION_HEADS))}); give the weights of a detection model"
        )
    if architecture.get("channels", architecture.get("ch", 3)) != 3:
        raise WeightsError(
            f"{source}: the network does not take RGB images; give the weights of one that does"
        )


def _layers(architecture: Mapping[str, Any], part: str, source: Path) -> list[tuple[Any, Any, str, Any]]:
    rows = architecture.get(part)
    if (
        not isinstance(rows, (list, tuple))
        or not rows
        or any(len(row) != 4 if isinstance(row, (list, tuple)) else True for row in rows)
    ):
        raise WeightsError(
            f"{source}: its architecture has no {part} as ultralytics writes it (rows of from, number, "
            "module, arguments); give the weights of an ultralytics detection model"
        )
    return [(row[0], row[1], str(row[2]), row[3]) for row in rows]


def _is_layer(name: str) -> bool:
    import torch
    from ultralytics.nn import tasks

    home, bare = (torch.nn, name[3:]) if name.startswith("nn.") else (tasks, name)
    found = getattr(home, bare, None)
    return isinstance(found, type) and issubclass(found, torch.nn.Module) and bare not in NEVER_A_LAYER


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _load_state(network: torch.nn.Module, state: Mapping[str, torch.Tensor], source: Path) -> None:
    own = network.state_dict()
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    reshaped = sorted(
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    )
    if missing or unexpected or reshaped:
        raise WeightsError(
            f"{source}: the weights are not those of its architecture: missing {_few(missing)}; unexpected "
            f"{_few(unexpected)}; of another shape {_few(reshaped)}; give a file as its trainer wrote it"
        )
    network.load_state_dict(state)


def _few(names: list[str]) -> str:
    if not names:
        return "none"
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
