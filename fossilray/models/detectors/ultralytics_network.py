"""The only home of ultralytics: its networks without its predictor, its settings files and its network calls."""

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
from fossilray.models.detectors.layers import activation_of, plain_description
from fossilray.models.meta_device import TooMuch, build_on_meta, shapes_of, try_on_meta

if TYPE_CHECKING:
    import torch

MOST_INPUT_PX = 256
"""Side of the image by which ultralytics finds a network's strides."""

_importing = threading.Lock()
_activating = threading.Lock()


def build_detector_network(
    architecture: Mapping[str, Any], *, nc: int, state: Mapping[str, torch.Tensor], source: Path
) -> torch.nn.Module:
    """An ultralytics detection network with these weights: float32, in eval mode, its norms fused.

    `architecture` may come from a stranger's file: ultralytics is given one made anew from what is known of it, and the
    network is first laid out without memory, so that what it will hold is what the file holds. PyTorch's random state
    is left as it was.

    Raises:
        WeightsError: the architecture is not a detection network, or the weights are not its own.
    """
    import torch

    quiet_ultralytics()
    from ultralytics.nn import tasks

    plain = plain_description(architecture, nc=nc, source=str(source))
    parse: Any = tasks.parse_model
    build: Any = tasks.DetectionModel
    with torch.random.fork_rng(devices=[]), _activations(activation_of(architecture, source=str(source))):
        try:
            layers = build_on_meta(lambda: parse(copy.deepcopy(plain), ch=3, verbose=False)[0])
            _check_state({f"model.{name}": shape for name, shape in shapes_of(layers).items()}, state, source)
            try_on_meta(lambda image: _run_layers(layers.eval(), image), side_px=MOST_INPUT_PX)
            network = build(copy.deepcopy(plain), ch=3, nc=nc, verbose=False)
        except TooMuch as error:
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
    """What ultralytics' forward pass does up to the head, whose own work follows its inputs' sizes."""
    made: list[Any] = []
    for layer in list(layers)[:-1]:
        seen = image if layer.f == -1 else _inputs(layer.f, made, image)
        image = layer(seen)
        made.append(image)


def _inputs(origin: int | list[int], made: list[Any], last: torch.Tensor) -> Any:
    if isinstance(origin, int):
        return made[origin]
    return [last if one == -1 else made[one] for one in origin]


@contextmanager
def _activations(activation: torch.nn.Module | None) -> Iterator[None]:
    """What convolutions activate with while a network is built; ultralytics would evaluate its name as Python."""
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


def _check_state(own: Mapping[str, tuple[int, ...]], state: Mapping[str, torch.Tensor], source: Path) -> None:
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    reshaped = sorted(
        f"{name} {tuple(state[name].shape)} for {own[name]}"
        for name in own.keys() & state.keys()
        if own[name] != tuple(state[name].shape)
    )
    if missing or unexpected or reshaped:
        raise WeightsError(
            f"{source}: the weights are not those of its architecture: missing {_few(missing)}; unexpected "
            f"{_few(unexpected)}; of another shape {_few(reshaped)}; give a file as its trainer wrote it"
        )


def _few(names: list[str]) -> str:
    if not names:
        return "none"
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
