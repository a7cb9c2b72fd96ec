"""The detector's own file format."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fossilray.core.errors import WeightsError
from fossilray.models.detectors.weights_file import DetectorMeta, read_weights, save_weights

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
    save_weights(tmp_path / "a.safetensors", state_dict=state, meta=META)
    read, meta = read_weights(tmp_path / "a.safetensors")
    assert meta == META
    assert torch.equal(read["bn.running_var"], state["bn.running_var"])
    assert torch.equal(read["conv.weight"], state["conv.weight"].half().float())
    assert read["bn.num_batches_tracked"].dtype == torch.int64


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    state = {"b": torch.ones(3), "a": torch.ones(2, 2).T}
    save_weights(tmp_path / "1.safetensors", state_dict=state, meta=META)
    save_weights(tmp_path / "2.safetensors", state_dict=dict(reversed(state.items())), meta=META)
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"gone\.safetensors do not exist"):
        read_weights(tmp_path / "gone.safetensors")


def test_a_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("these are no weights at all")
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        read_weights(tmp_path / "text.safetensors")


def test_safetensors_of_another_program_are_refused(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(WeightsError, match="no fossilray detector"):
        read_weights(tmp_path / "other.safetensors")
