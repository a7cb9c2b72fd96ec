"""What weights say of themselves is data: nothing in it is called, opened or believed, and sound files lose nothing."""

from __future__ import annotations

import argparse
import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from safetensors.torch import save_file
from support.small_network import SMALL, build, meta

from fossilray.analysis.search.quantizer import QUANTIZERS, VectorQuantizer
from fossilray.core.config import DetectorConfig, EmbedderConfig
from fossilray.core.errors import StoreError, WeightsError
from fossilray.core.vectors import unit_vectors
from fossilray.models.backbones.architectures import Architecture, build_backbone_network
from fossilray.models.backbones.backbone_file import BackboneMeta, save_backbone
from fossilray.models.backbones.checkpoints import read_backbone_checkpoint
from fossilray.models.backbones.load import load_network
from fossilray.models.detectors.detector_file import save_detector
from fossilray.models.detectors.load import load_detector


def load(path: Path) -> None:
    load_detector(DetectorConfig(weights=str(path)), device="cpu")


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return dict(build(SMALL).state_dict())


def test_a_module_of_ultralytics_that_reads_files_is_no_layer(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """DetectionModel reads the YAML file that its argument names, and evaluates the activation in it."""
    mark = tmp_path / "ran"
    (tmp_path / "model.yaml").write_text(
        f"nc: 1\nactivation: open({str(mark)!r}, 'w') and nn.SiLU()\nbackbone:\n  - [-1, 1, Conv, [16, 3, 2]]\n"
        "head:\n  - [[-1], 1, Detect, [nc]]\n"
    )
    rows = [[-1, 1, "DetectionModel", [repr(str(tmp_path / "m*.yaml"))]], *SMALL["backbone"]]
    save_detector(tmp_path / "d.safetensors", state_dict=state, meta=meta(SMALL | {"backbone": rows}))
    with pytest.raises(WeightsError, match="names the layer 'DetectionModel'"):
        load(tmp_path / "d.safetensors")
    assert not mark.exists()


CONV = SMALL["backbone"][0]


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": [[-1, 1e308, "Conv", [16, 3, 2]], *SMALL["backbone"][1:]]},
        {"backbone": [[-1, 10**6, "C2f", [16, True]], *SMALL["backbone"][1:]]},
        {"backbone": [[-1, 1, "Conv", [10**9, 3, 2]], *SMALL["backbone"][1:]]},
        {"backbone": [[-1, 1, "Conv", ["d", 3, 2]], *SMALL["backbone"][1:]]},
        {"backbone": [[-1, 1, "Conv", [16, 3, 2, None, 1, 1, "nn.Module"]], *SMALL["backbone"][1:]]},
        {"backbone": [[-1, 1, "nn.Upsample", [None, 10**6, "nearest"]], *SMALL["backbone"]]},
        {"backbone": [*([[-1, 1, "nn.Upsample", [None, 8, "nearest"]]] * 6), *SMALL["backbone"]]},
        {  # in memory at 256 px, and 6 GB at 1280
            "backbone": [
                *([[-1, 1, "nn.Upsample", [None, factor, "nearest"]] for factor in (8, 4)]),
                *SMALL["backbone"],
            ]
        },
        {"backbone": [[-1, 1, "nn.Module", []], *SMALL["backbone"]]},
        {"backbone": [[99, 1, "Conv", [16, 3, 2]], *SMALL["backbone"]]},
        {"backbone": [CONV] * 401},
        {"scales": {"n": [1e308, 1, 1]}},
        {"scales": {"n": [1, 1, 1024]}, "scale": "../x"},
        {"depth_multiple": float("1e300")},
        {"reg_max": 10**7},
        {"end2end": "print()"},
        {"activation": "nn.Module()"},
        {"activation": "nn.SiLU(**__import__('os').environ)"},
        {"activation": ["nn.SiLU()"]},
    ],
)
def test_a_description_beyond_what_is_known_is_refused_before_anything_is_built(
    change: dict[str, Any], state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_detector(tmp_path / "d.safetensors", state_dict=state, meta=meta(SMALL | change))
    with pytest.raises(WeightsError) as refused:
        load(tmp_path / "d.safetensors")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    "kwargs",
    [
        {"checkpoint_path": "evil.pth"},
        {"pretrained": True},
        {"pretrained_cfg": {"file": "evil.pth"}},
        {"pretrained_cfg_overlay": {"url": "http://localhost/x"}},
        {"cache_dir": "/tmp"},
        {"features_only": True},
        {"depth": 10**6},
        {"depth": 1e308},
        {"embed_dim": 8192, "depth": 100},
        {"img_size": 10**7},
        {"img_size": 4096, "patch_size": 1},
        {"act_layer": "os.system"},
        {"norm_layer": {"a": 1}},
        {"num_classes": -1},
        {"patch_size": 1, "embed_dim": 8192, "depth": 64},
    ],
)
def test_arguments_beyond_what_is_known_do_not_reach_timm(kwargs: dict[str, Any], tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    evil = tmp_path / "evil.pth"
    evil.write_bytes(pickle.dumps(Call(mark)))
    kwargs = {key: str(evil) if value == "evil.pth" else value for key, value in kwargs.items()}
    path = tmp_path / "b.safetensors"
    save_backbone(path, state_dict={"a": torch.zeros(1)}, meta=backbone_meta("vit_tiny_patch16_224", kwargs))
    with pytest.raises(WeightsError, match=r"b\.safetensors|vit_tiny_patch16_224"):
        load_network(EmbedderConfig(weights=f"file:{path}"))
    assert not mark.exists()


class Call:
    """Pickles as a call that leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def backbone_meta(architecture: str, kwargs: dict[str, Any]) -> BackboneMeta:
    return BackboneMeta(
        name="b",
        architecture=architecture,
        kwargs=kwargs,
        dimension=192,
        input_px=224,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        interpolation="bicubic",
    )


@pytest.mark.parametrize(
    "name", ["hf-hub:timm/vit", "local-dir:/tmp", "resnet18/../x", "resnet18.a b", "resnet18:x"]
)
def test_only_timms_own_networks_have_a_name(name: str) -> None:
    with pytest.raises(WeightsError, match="no network of timm"):
        build_backbone_network(Architecture(name, 32))


def test_what_a_pickle_names_is_never_called(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for name, content in {
        "a.pth": Call(mark),
        "b.pth": {"model": Call(mark)},
        "c.pth": {"w": Call(mark)},
    }.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(WeightsError, match=r"nothing in it was run"):
            read_backbone_checkpoint(tmp_path / name)
    assert not mark.exists()


def test_tensors_that_claim_more_than_their_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"w": torch.zeros(1).expand(2**34)}, path)
    with pytest.raises(WeightsError, match="more than eight times the size"):
        read_backbone_checkpoint(path)
    inside = io.BytesIO()
    torch.save({"w": torch.zeros(4)}, inside)
    with zipfile.ZipFile(inside) as archive, zipfile.ZipFile(path, "w") as sink:
        for one in archive.infolist():
            # Four numbers become eight in the description of the tensor only.
            sink.writestr(one.filename, archive.read(one).replace(b"K\x04\x85", b"K\x08\x85"))
    with pytest.raises(WeightsError, match=r"reaches beyond its storage"):
        read_backbone_checkpoint(path)


def test_a_compressed_member_that_would_swell_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as sink:
        sink.writestr("w/data.pkl", bytes(10**7))
    with pytest.raises(WeightsError, match="is compressed"):
        read_backbone_checkpoint(path)


def test_a_container_that_holds_itself_ends(tmp_path: Path) -> None:
    loop: dict[str, Any] = {}
    loop["model"] = loop
    torch.save(loop, tmp_path / "loop.pth")
    with pytest.raises(WeightsError, match="holds no tensors"):
        read_backbone_checkpoint(tmp_path / "loop.pth")
    torch.save({"module." * 2000 + "w": torch.zeros(2)}, tmp_path / "long.pth")
    with pytest.raises(WeightsError, match="more than 500"):
        read_backbone_checkpoint(tmp_path / "long.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_a_training_script_is_read_with_all_that_lies_beside_it(
    zipped: bool, tmp_path: Path
) -> None:
    """As DINO's and SCAMPI's: settings, figures of NumPy and the optimiser's state beside the teacher."""
    network = timm.create_model(
        "vit_small_patch16_224", pretrained=False, num_classes=0, depth=2, img_size=32
    )
    teacher = {f"module.backbone.{name}": tensor for name, tensor in network.state_dict().items()}
    held = {
        "student": {},
        "teacher": {**teacher, "module.head.mlp.weight": torch.zeros(2)},
        "args": argparse.Namespace(arch="vit_small", lr=5e-4),
        "loss": np.float64(1.5),
        "optimizer": {
            "state": {0: {"exp_avg": torch.zeros(3)}},
            "param_groups": [{"lr": 1e-3, "params": [0]}],
        },
    }
    path = tmp_path / "checkpoint.pth"
    torch.save(held, path, _use_new_zipfile_serialization=zipped)
    found, _, preprocessing = load_network(EmbedderConfig(weights=f"file:{path}"))
    assert preprocessing.size_px == 32
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name


SLOW_FAMILIES = (
    "regnetx_002",
    "swin_tiny_patch4_window7_224",
    "vit_small_patch14_dinov2",
    "resnet50",
    "deit_tiny_patch16_224",
)


@pytest.mark.parametrize(
    "name", ["mobilenetv3_small_050", *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW_FAMILIES)]
)
def test_backbones_of_many_families_are_loaded(name: str, tmp_path: Path) -> None:
    network = timm.create_model(name, pretrained=False, num_classes=0)
    path = tmp_path / "b.pth"
    torch.save(network.state_dict(), path)
    found, _, _ = load_network(EmbedderConfig(weights=f"file:{path}", architecture=name))
    assert all(torch.equal(one, network.state_dict()[key]) for key, one in found.state_dict().items())


def test_safetensors_with_metadata_nested_without_end_or_types_of_no_weights_are_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "w.safetensors"
    for metadata in ({"fossilray": "[" * 10**5}, {"fossilray": '{"a": 1e999}'}, {"fossilray": "{" * 99}):
        save_file({"w": torch.zeros(2)}, str(path), metadata)
        for read in (load, read_backbone_checkpoint):
            with pytest.raises(WeightsError, match="cannot be used"):
                read(path)
    save_file({"w": torch.zeros(2).to(torch.float8_e4m3fn)}, str(path))
    with pytest.raises(WeightsError, match="is of type F8_E4M3"):
        read_backbone_checkpoint(path)
    header = json.dumps({"w": {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(WeightsError, match=r"which no weights have|not a whole"):
        read_backbone_checkpoint(path)


class Squares(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2)[:, :, :8].transpose(1, 2).repeat(1, 1, 2) * 2


def spoiled_script(path: Path, old: str, new: str) -> Path:
    """A TorchScript whose source was changed by hand."""
    inside = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Squares()), inside)
    with zipfile.ZipFile(inside) as archive, zipfile.ZipFile(path, "w") as sink:
        for one in archive.infolist():
            content = archive.read(one)
            if one.filename.endswith("claims.py"):
                assert old.encode() in content
                content = content.replace(old.encode(), new.encode())
            sink.writestr(one.filename, content)
    return path


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("  torch.save(x, 'MARK')\n    _0 =", "aten::save"),
        ("  x.save('MARK')\n    _0 =", "aten::save"),
        ("  ops.aten.save(x, 'MARK')\n    _0 =", "aten::save"),
        ("  'MARK'.from_file(True, 1)\n    _0 =", "aten::from_file"),
        ("  keep = torch.save\n    keep(x, 'MARK')\n    _0 =", "keep"),
        ("  # a comment\n    _0 =", "comments"),
        (f"  y = {'(' * 250}x{')' * 250}\n    _0 =", "TorchScript"),
        (f"  y = {'-' * 5000}1\n    _0 =", "TorchScript"),
    ],
)
def test_a_torchscript_that_calls_more_than_operators_is_refused(
    new: str, message: str, tmp_path: Path
) -> None:
    mark = tmp_path / "written"
    new = new.replace("MARK", str(mark))
    path = spoiled_script(tmp_path / "evil.torchscript", "  _0 =", new)
    with pytest.raises(WeightsError, match=message):
        load(path)
    assert not mark.exists()


def small_onnx(path: Path) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 8, 8), torch.nn.Flatten(2))
        torch.onnx.export(
            small, (torch.zeros(1, 3, 64, 64),), str(path), input_names=["images"], dynamo=False
        )
    return onnx.load(str(path))


def test_an_onnx_model_reads_numbers_beside_it_and_nowhere_else(tmp_path: Path) -> None:
    model = small_onnx(tmp_path / "m.onnx")
    onnx.save_model(
        model, str(tmp_path / "m.onnx"), save_as_external_data=True, location="m.data", size_threshold=0
    )
    load(tmp_path / "m.onnx")
    whole = (tmp_path / "m.data").read_bytes()
    (tmp_path / "m.data").unlink()
    (tmp_path / "elsewhere").write_bytes(whole)
    (tmp_path / "m.data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WeightsError, match="cannot be used"):
        load(tmp_path / "m.onnx")
    for location in ("../elsewhere", str(tmp_path / "elsewhere"), "..", ""):
        spoiled = onnx.load(str(tmp_path / "m.onnx"), load_external_data=False)
        for tensor in spoiled.graph.initializer:
            tensor.external_data[0].value = location
        (tmp_path / "n.onnx").write_bytes(spoiled.SerializeToString())
        with pytest.raises(WeightsError, match="no file of its own folder"):
            load(tmp_path / "n.onnx")


def test_an_onnx_model_of_other_operators_or_wrong_sizes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = small_onnx(path)
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.graph.node[0].op_type, other.graph.node[0].domain = "EPContext", "com.microsoft"
    path.write_bytes(other.SerializeToString())
    with pytest.raises(WeightsError, match=r"'EPContext' of 'com\.microsoft'"):
        load(path)
    other.CopyFrom(model)
    other.graph.initializer[0].dims[0] = 2**40
    path.write_bytes(other.SerializeToString())
    with pytest.raises(WeightsError, match="claims"):
        load(path)


@pytest.mark.parametrize("count", [1, 2, 30, 119, 600])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_coder_of_few_vectors_is_read_again(name: str, count: int) -> None:
    vectors = unit_vectors(np.random.default_rng(count).normal(size=(count, 512)).astype(np.float32))
    coder = VectorQuantizer.train(vectors, name=name, lists=1, seed=1)
    again = VectorQuantizer.from_bytes(coder.to_bytes(), name=name, dimension=512, lists=1, path="here")
    assert again.to_bytes() == coder.to_bytes()
    assert (again.encode(vectors)[1] == coder.encode(vectors)[1]).all()


def test_a_coder_that_faiss_trained_on_fewer_vectors_than_dimensions_is_read() -> None:
    import faiss

    index = faiss.index_factory(512, "PCA64,IVF1,SQ8", faiss.METRIC_L2)
    index.train(unit_vectors(np.random.default_rng(0).normal(size=(119, 512)).astype(np.float32)))
    content = faiss.serialize_index(index).tobytes()
    assert (
        VectorQuantizer.from_bytes(content, name="pca64-8bit", dimension=512, lists=1, path="here").dimension
        == 512
    )


def test_a_coder_with_any_field_changed_is_refused_before_faiss_sees_it() -> None:
    vectors = unit_vectors(np.random.default_rng(0).normal(size=(400, 70)).astype(np.float32))
    for name in ("pca64-8bit", "pca176-4bit"):
        coder = VectorQuantizer.train(vectors, name=name, lists=4, seed=1)
        content = coder.to_bytes()
        same = {"name": name, "dimension": 70, "lists": 4, "path": "here"}
        assert VectorQuantizer.from_bytes(content, **same).to_bytes() == content  # type: ignore[arg-type]
        for cut in (0, 3, 40, len(content) // 2, len(content) - 1):
            with pytest.raises(StoreError, match="not the quantizer of an index"):
                VectorQuantizer.from_bytes(content[:cut], **same)  # type: ignore[arg-type]
        for other in ({"dimension": 71}, {"lists": 5}, {"name": "pca96-6bit"}, {"name": "x"}):
            with pytest.raises(StoreError, match="not the quantizer of an index"):
                VectorQuantizer.from_bytes(content, **{**same, **other})  # type: ignore[arg-type]
        spoiled = bytearray(content)
        spoiled[-4:] = b"\xff\xff\xff\x7f"
        with pytest.raises(StoreError, match="not the quantizer of an index"):
            VectorQuantizer.from_bytes(bytes(spoiled), **same)  # type: ignore[arg-type]
