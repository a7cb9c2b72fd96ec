"""Weights that cannot or must not be loaded: refused with a reason and a remedy, and never run."""

import os
import pickle
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_network import SMALL, build, meta

from fossilray.core.config import DetectorConfig
from fossilray.core.errors import WeightsError
from fossilray.models.detectors.detector_file import save_detector
from fossilray.models.detectors.load import detector_digest, load_detector
from fossilray.models.detectors.ultralytics_network import quiet_ultralytics


def load(path: Path) -> None:
    load_detector(DetectorConfig(weights=str(path)), device="cpu")


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("name", ["gone.pt", "gone.safetensors", "gone.onnx", "gone.torchscript"])
def test_missing_weights_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=rf"{name} \(detector weights\) does not exist; set detector\.weights"
    ):
        load(tmp_path / name)
    with pytest.raises(WeightsError, match="does not exist"):
        detector_digest(DetectorConfig(weights=str(tmp_path / name)))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ".onnx", ".torchscript"])
def test_a_text_file_is_no_weights(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_text("Dear palynologist, these are no weights.\n" * 40)
    with pytest.raises(WeightsError, match="is not a"):
        load(path)


def test_an_unknown_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.h5").write_bytes(b"HDF")
    with pytest.raises(WeightsError, match=r"takes \.safetensors, \.pt, \.onnx or \.torchscript"):
        load(tmp_path / "weights.h5")


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"model": build(SMALL)}, tmp_path / "whole.pt")
    content = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match="not a PyTorch checkpoint"):
        load(tmp_path / "half.pt")


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("readme.txt", "no weights here")
    with pytest.raises(WeightsError, match="damaged PyTorch checkpoint"):
        load(tmp_path / "other.pt")


def test_weights_of_another_architecture_list_what_does_not_fit(tmp_path: Path) -> None:
    state = build(SMALL).state_dict()
    first = next(iter(state))
    del state[first]
    state["embed.weight"] = torch.zeros(3)
    save_detector(tmp_path / "other.safetensors", state_dict=state, meta=meta())
    with pytest.raises(WeightsError, match=rf"missing {first}; unexpected embed\.weight"):
        load(tmp_path / "other.safetensors")


def test_weights_of_another_width_list_both_shapes(tmp_path: Path) -> None:
    wider = SMALL | {"backbone": [[-1, 1, "Conv", [24, 3, 2]], *SMALL["backbone"][1:]]}
    save_detector(tmp_path / "wide.safetensors", state_dict=build(SMALL).state_dict(), meta=meta(wider))
    with pytest.raises(WeightsError, match=r"of another shape model\.0.* \(16,\) for \(24,\)"):
        load(tmp_path / "wide.safetensors")


def test_a_network_without_a_detection_head_is_refused(tmp_path: Path) -> None:
    classifier = SMALL | {"head": [[-1, 1, "Classify", ["nc"]]]}
    save_detector(tmp_path / "c.safetensors", state_dict=build(SMALL).state_dict(), meta=meta(classifier))
    with pytest.raises(WeightsError, match="'Classify', not a detection head"):
        load(tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    "rows",
    [
        [[-1, 1, "check_requirements", ["left-pad"]]],
        [[-1, 1, "TorchVision", [512, "resnet18", "DEFAULT"]]],
        [[-1, 1, "nn.functional", []]],
        [[-1, 1, "Conv", [{"a": 1}]]],
        [[-1, 1]],
        [],
    ],
)
def test_an_architecture_may_only_name_layers(rows: list[Any], tmp_path: Path) -> None:
    evil = SMALL | {"backbone": rows}
    save_detector(tmp_path / "evil.safetensors", state_dict={}, meta=meta(evil))
    with pytest.raises(WeightsError, match=r"architecture|arguments"):
        load(tmp_path / "evil.safetensors")


def test_code_in_an_activation_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "run.txt"
    evil = SMALL | {"activation": f"nn.SiLU() if open({str(mark)!r}, 'w') else nn.SiLU()"}
    save_detector(tmp_path / "evil.safetensors", state_dict=build(SMALL).state_dict(), meta=meta(evil))
    with pytest.raises(WeightsError, match=r"is not a known torch\.nn layer"):
        load(tmp_path / "evil.safetensors")
    assert not mark.exists()


def test_an_honest_activation_is_kept(tmp_path: Path) -> None:
    plain = SMALL | {"activation": "nn.LeakyReLU(0.1)"}
    save_detector(tmp_path / "leaky.safetensors", state_dict=build(plain).state_dict(), meta=meta(plain))
    load(tmp_path / "leaky.safetensors")


def test_a_pickle_that_runs_a_command_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "run.txt"
    torch.save({"model": Calls(os.system, f"touch {mark}")}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match=r"system, which no ultralytics detection model needs"):
        load(tmp_path / "evil.pt")
    assert not mark.exists()


def test_a_bare_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "run.txt"
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Calls(os.system, f"touch {mark}")))
    with pytest.raises(WeightsError, match="not a PyTorch checkpoint"):
        load(tmp_path / "evil.pt")
    assert not mark.exists()


def test_a_pickle_that_builds_a_model_from_code_is_not_run(tmp_path: Path) -> None:
    quiet_ultralytics()
    from ultralytics.nn.tasks import DetectionModel

    mark = tmp_path / "run.txt"
    evil = SMALL | {"activation": f"open({str(mark)!r}, 'w') and nn.SiLU()"}
    torch.save({"model": Calls(DetectionModel, evil, 3, 2, False)}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError):
        load(tmp_path / "evil.pt")
    assert not mark.exists()


def test_a_checkpoint_with_tensors_alone_is_refused(tmp_path: Path) -> None:
    torch.save(build(SMALL).state_dict(), tmp_path / "tensors.pt")
    with pytest.raises(WeightsError, match="holds no ultralytics model"):
        load(tmp_path / "tensors.pt")


@pytest.fixture
def yolov5_model() -> Iterator[Any]:
    """An object whose class bears the name YOLOv5's own program gives its models."""
    package, module = types.ModuleType("models"), types.ModuleType("models.yolo")
    kind = type("DetectionModel", (torch.nn.Module,), {"__module__": "models.yolo"})
    module.DetectionModel = kind  # type: ignore[attr-defined]
    sys.modules |= {"models": package, "models.yolo": module}
    yield kind()
    del sys.modules["models.yolo"], sys.modules["models"]


def test_a_yolov5_checkpoint_is_refused_with_the_way_to_export_it(yolov5_model: Any, tmp_path: Path) -> None:
    torch.save({"model": yolov5_model}, tmp_path / "aerial.pt")
    with pytest.raises(WeightsError, match=r"export\.py --weights aerial\.pt --include onnx --dynamic"):
        load(tmp_path / "aerial.pt")
