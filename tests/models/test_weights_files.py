"""Files of weights: tensors and their description, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.irregular_files import irregular

import fossilray.models.weights_file
from fossilray.core.config import DetectorConfig, EmbedderConfig
from fossilray.core.errors import WeightsError
from fossilray.models.backbones.checkpoints import read_backbone_checkpoint
from fossilray.models.backbones.load import embedder_digest, load_embedder
from fossilray.models.detectors.detector_file import DetectorMeta, read_detector, save_detector
from fossilray.models.detectors.load import detector_digest, load_detector
from fossilray.models.heads import head_digest, load_head
from fossilray.models.weights_file import METADATA_KEY, bundled_weights

META = DetectorMeta(
    architecture={"backbone": [[-1, 1, "Conv", [16, 3, 2]]], "head": []},
    nc=1,
    names=("object",),
    stride=32,
    invert=True,
    um_per_px=(1.0, 4.0),
    smallest_um=5.0,
)


def test_kernels_are_stored_in_half_and_vectors_whole(tmp_path: Path) -> None:
    state = {
        "conv.weight": torch.rand(4, 3, 3, 3),
        "bn.running_var": torch.tensor([1e6, 1e-9]),
        "bn.num_batches_tracked": torch.tensor(7),
    }
    save_detector(tmp_path / "a.safetensors", state_dict=state, meta=META)
    read, meta = read_detector(tmp_path / "a.safetensors")
    assert meta == META
    assert torch.equal(read["bn.running_var"], state["bn.running_var"])
    assert torch.equal(read["conv.weight"], state["conv.weight"].half().float())
    assert read["bn.num_batches_tracked"].dtype == torch.int64


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    state = {"b": torch.ones(3), "a": torch.ones(2, 2).T}
    save_detector(tmp_path / "1.safetensors", state_dict=state, meta=META)
    save_detector(tmp_path / "2.safetensors", state_dict=dict(reversed(state.items())), meta=META)
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"gone\.safetensors \(detector weights\) does not exist"):
        read_detector(tmp_path / "gone.safetensors")


def test_a_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("these are no weights at all")
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        read_detector(tmp_path / "text.safetensors")


def test_safetensors_of_another_program_are_refused(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(WeightsError, match="is not a fossilray detector"):
        read_detector(tmp_path / "other.safetensors")


@pytest.mark.parametrize("content", ["[]", "3", '{"format": ["fossilray-detector/1"]}', '{"format": "x/1"}'])
def test_a_description_of_another_format_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"w": torch.ones(2)}, str(path), {METADATA_KEY: content})
    for read in (read_detector, read_backbone_checkpoint, load_head):
        with pytest.raises(WeightsError, match=r"it is of format .*, not fossilray-[a-z]+/1.*; "):
            read(path)


def test_a_description_with_an_unknown_field_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "later.safetensors"
    save_detector(path, state_dict={"w": torch.ones(2)}, meta=META)
    fields = json.dumps({**META.model_dump(mode="json"), "later": 1})
    save_file({"w": torch.ones(2)}, str(path), {METADATA_KEY: fields})
    with pytest.raises(WeightsError, match=r"its description is damaged \(later: Extra inputs"):
        read_detector(path)


def test_the_bundled_weights_are_files_of_the_package() -> None:
    for kind in ("detector", "backbone"):
        assert bundled_weights(kind).parent == Path(fossilray.models.weights_file.__file__).parent / "weights"
        assert bundled_weights(kind).is_file()
    assert read_detector(bundled_weights("detector"))[1].format == "fossilray-detector/1"


@irregular
@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth", "onnx", "torchscript"])
def test_weights_that_are_no_regular_file_are_refused_at_once(
    tmp_path: Path, make: Callable[[Path], None], suffix: str
) -> None:
    path = tmp_path / f"weights.{suffix}"
    make(path)
    detector, embedder = DetectorConfig(weights=str(path)), EmbedderConfig(weights=f"file:{path}")
    for read in (
        lambda: load_detector(detector, device="cpu"),
        lambda: detector_digest(detector),
        lambda: load_embedder(embedder, device="cpu"),
        lambda: embedder_digest(embedder),
        lambda: load_head(path),
        lambda: head_digest(path),
    ):
        with pytest.raises(WeightsError, match=r"it is a (pipe|device|socket|folder), not a regular file"):
            read()
