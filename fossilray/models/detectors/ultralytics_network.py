"""Detection networks of ultralytics, without its predictor, settings files and network access."""

from __future__ import annotations

import copy
import importlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fossilray.core.errors import WeightsError
from fossilray.core.text import list_some
from fossilray.models.detectors.layers import activation_of, check_description
from fossilray.models.meta_device import NetworkTooLarge, build_on_meta, shapes_of, try_on_meta

if TYPE_CHECKING:
    import torch

_STRIDE_INPUT_PX = 256
"""Side of the image from which ultralytics derives a network's strides."""
_MEMORY_INPUT_PX = 1280
"""Side of the image at which the memory of a network is checked: a large tile."""

_importing = threading.Lock()
_activating = threading.Lock()


def build_detector_network(
    architecture: Mapping[str, Any], *, nc: int, state: Mapping[str, torch.Tensor], source: Path
) -> torch.nn.Module:
    """Build an ultralytics detection network with these weights: float32, in eval mode, with norms fused.

    `architecture` may come from an untrusted file: ultralytics receives a checked copy, and the shapes are compared
    with the weights on the meta device before memory is allocated. PyTorch's random state does not change.

    Raises:
        WeightsError: the architecture is not a detection network, or the weights do not fit it.
    """
    import torch

    quiet_ultralytics()
    from ultralytics.nn import tasks

    plain = check_description(architecture, nc=nc, source=str(source))
    parse: Any = tasks.parse_model
    build: Any = tasks.DetectionModel
    with torch.random.fork_rng(devices=[]), _activations(activation_of(architecture, source=str(source))):
        try:
            layers = build_on_meta(lambda: parse(copy.deepcopy(plain), ch=3, verbose=False)[0])
            _check_state({f"model.{name}": shape for name, shape in shapes_of(layers).items()}, state, source)
            for side_px in (_STRIDE_INPUT_PX, _MEMORY_INPUT_PX):
                try_on_meta(lambda image: _run_layers(layers.eval(), image), side_px=side_px)
            network = build(copy.deepcopy(plain), ch=3, nc=nc, verbose=False)
        except NetworkTooLarge as error:
            raise WeightsError(
                f"{source}: its architecture describes {error}; export the model to .onnx where it was trained and set "
                "detector.weights to that"
            ) from None
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise WeightsError(
                f"{source}: its architecture cannot be built ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:300]}); it may come from another version of ultralytics: export it to "
                ".onnx there and set detector.weights to that"
            ) from None
    network.load_state_dict(dict(state))
    network.requires_grad_(False)
    fused: torch.nn.Module = network.eval().fuse(verbose=False)
    return fused


def _run_layers(layers: Any, image: torch.Tensor) -> None:
    """Run ultralytics' forward pass up to the head, whose size follows from its inputs."""
    outputs: list[Any] = []
    for layer in list(layers)[:-1]:
        inputs = image if layer.f == -1 else _inputs(layer.f, outputs, image)
        image = layer(inputs)
        outputs.append(image)


def _inputs(origin: int | list[int], outputs: list[Any], last: torch.Tensor) -> Any:
    if isinstance(origin, int):
        return outputs[origin]
    return [last if index == -1 else outputs[index] for index in origin]


@contextmanager
def _activations(activation: torch.nn.Module | None) -> Iterator[None]:
    """Set the activation of convolutions while a network is built; ultralytics would evaluate its name as Python."""
    from ultralytics.nn.modules import Conv

    kind: Any = Conv
    with _activating:
        before = kind.default_act
        try:
            kind.default_act = before if activation is None else activation
            yield
        finally:
            kind.default_act = before


def quiet_ultralytics() -> None:
    """Import ultralytics without writing files, network access or changes of global settings.

    At its first import it writes a settings file, looks up hosts, sets environment variables, the number of
    OpenCV threads and print options, and replaces torch.save and PIL's Image.open. Its environment variables are set
    during that import, and all changes are reverted. Call this before importing anything from ultralytics.
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


def _check_state(
    expected: Mapping[str, tuple[int, ...]], state: Mapping[str, torch.Tensor], source: Path
) -> None:
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    reshaped = sorted(
        f"{name} {tuple(state[name].shape)} for {expected[name]}"
        for name in expected.keys() & state.keys()
        if expected[name] != tuple(state[name].shape)
    )
    if missing or unexpected or reshaped:
        raise WeightsError(
            f"{source}: the weights do not fit its architecture: missing {_few(missing)}; unexpected "
            f"{_few(unexpected)}; of another shape {_few(reshaped)}; give a file as its trainer wrote it"
        )


def _few(names: list[str]) -> str:
    return list_some(names, most=3) or "none"
