"""Backbones: ours and other projects' files, and the files that must be refused."""

from __future__ import annotations

import argparse
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image as Pillow
from safetensors.torch import save_file

from fossilray.core.config import EmbedderConfig
from fossilray.core.errors import WeightsError
from fossilray.models.backbones.backbone_file import BackboneMeta, save_backbone
from fossilray.models.backbones.embedder import IMAGENET_MEAN, IMAGENET_STD, BackboneEmbedder, Preprocessing
from fossilray.models.backbones.load import describe_embedder, embedder_digest, load_embedder
from fossilray.models.weights_file import bundled_weights

VIT = {"img_size": 32, "patch_size": 8, "depth": 2}


@pytest.fixture
def crops() -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def vit() -> torch.nn.Module:
    torch.manual_seed(4)
    network: torch.nn.Module = timm.create_model("vit_tiny_patch16_224", num_classes=0, **VIT)
    return network.eval()


def _load(path: Path, **options: Any) -> BackboneEmbedder:
    config = EmbedderConfig(weights=f"file:{path}", **options)
    embedder = load_embedder(config, device="cpu", precision="float32")
    assert isinstance(embedder, BackboneEmbedder)
    return embedder


def _expect(network: torch.nn.Module, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the network gives for crops of its own size, normalised by ImageNet in plain numpy."""
    seen = (crops / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    with torch.no_grad():
        found = network(torch.from_numpy(seen.transpose(0, 3, 1, 2)).float())
    return np.asarray(found.numpy(), np.float32)


def _refusal(path: Path, **options: Any) -> str:
    with pytest.raises(WeightsError) as refusal:
        _load(path, **options)
    return str(refusal.value)


def test_bundled_backbone_gives_equal_vectors_for_equal_crops() -> None:
    crops = np.random.default_rng(5).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    first = load_embedder(EmbedderConfig(), device="cpu")
    second = load_embedder(EmbedderConfig(), device="cpu")
    assert first is not None
    assert second is not None
    vectors = first.embed(crops)
    assert vectors.shape == (3, first.dimension)
    assert vectors.dtype == np.float16
    assert (vectors == second.embed(crops)).all()
    assert (vectors[0] != vectors[1]).any()
    assert first.embed(crops[:0]).shape == (0, first.dimension)


def test_bundled_backbone_is_small_and_known_by_its_digest() -> None:
    digest = hashlib.sha256(bundled_weights("backbone").read_bytes()).hexdigest()
    assert embedder_digest(EmbedderConfig()) == {"backbone.safetensors": digest}
    assert bundled_weights("backbone").stat().st_size < 12e6


def test_no_embedder_is_loaded_for_none() -> None:
    assert load_embedder(EmbedderConfig(weights="none"), device="cpu") is None
    assert embedder_digest(EmbedderConfig(weights="none")) == {}
    assert describe_embedder(EmbedderConfig(weights="none")) == {}


def test_dino_checkpoint_gives_its_teacher(
    tmp_path: Path, vit: torch.nn.Module, crops: NDArray[np.uint8]
) -> None:
    teacher = {f"backbone.{key}": t for key, t in vit.state_dict().items()} | {
        "head.mlp.0.weight": torch.ones(2, 2)
    }
    student = {f"module.backbone.{key}": t + 1 for key, t in vit.state_dict().items()}
    checkpoint = {
        "student": student,
        "teacher": teacher,
        "epoch": 9,
        "args": argparse.Namespace(arch="vit_tiny"),
    }
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    embedder = _load(tmp_path / "checkpoint.pth")
    assert embedder.preprocessing == Preprocessing(32, IMAGENET_MEAN, IMAGENET_STD, "bicubic")
    assert embedder.embed(crops) == pytest.approx(_expect(vit, crops), abs=5e-3)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "backbone.", "module.backbone.", "_orig_mod.module.encoder."]
)
def test_prefixes_of_training_wrappers_come_off(
    tmp_path: Path, vit: torch.nn.Module, crops: NDArray[np.uint8], prefix: str
) -> None:
    torch.save({prefix + key: t for key, t in vit.state_dict().items()}, tmp_path / "vit_small_backbone.pth")
    assert _load(tmp_path / "vit_small_backbone.pth").embed(crops) == pytest.approx(
        _expect(vit, crops), abs=5e-3
    )


def test_plain_safetensors_are_read_like_pickles(
    tmp_path: Path, vit: torch.nn.Module, crops: NDArray[np.uint8]
) -> None:
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    assert _load(tmp_path / "vit.safetensors").embed(crops) == pytest.approx(_expect(vit, crops), abs=5e-3)


def test_resnet_is_inferred_and_agrees_with_torchvision(tmp_path: Path) -> None:
    torch.manual_seed(6)
    network = torchvision.models.resnet18(weights=None)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "resnet.pth")
    embedder = _load(tmp_path / "resnet.pth", input_px=64)
    assert (embedder.dimension, embedder.preprocessing.size_px) == (512, 64)
    network.fc = torch.nn.Identity()  # type: ignore[assignment]
    crops = np.random.default_rng(7).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    assert embedder.embed(crops) == pytest.approx(_expect(network.eval(), crops), abs=5e-3)


def test_registers_and_layer_scales_are_inferred(tmp_path: Path, crops: NDArray[np.uint8]) -> None:
    torch.manual_seed(8)
    network = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, reg_tokens=4, no_embed_class=True, init_values=0.5, **VIT
    ).eval()
    torch.save(network.state_dict(), tmp_path / "registers.pt")
    assert _load(tmp_path / "registers.pt").embed(crops) == pytest.approx(_expect(network, crops), abs=5e-3)


def test_position_embeddings_follow_the_input_size(tmp_path: Path, vit: torch.nn.Module) -> None:
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    larger = _load(tmp_path / "vit.pth", input_px=64)
    assert larger.preprocessing.size_px == 64
    even = np.full((1, 64, 64, 3), 90, np.uint8)
    # An even crop has equal patches, so only the position embeddings differ between the sizes, by little.
    assert larger.embed(even) == pytest.approx(_load(tmp_path / "vit.pth").embed(even), abs=0.3)


def test_stated_architecture_with_a_tag_brings_its_own_normalisation(tmp_path: Path) -> None:
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    torch.save(network.state_dict(), tmp_path / "tagged.pth")
    embedder = _load(tmp_path / "tagged.pth", architecture="vit_tiny_patch16_224.augreg_in21k")
    assert embedder.preprocessing.mean == (0.5, 0.5, 0.5)
    assert (
        _load(tmp_path / "tagged.pth", architecture="vit_tiny_patch16_224").preprocessing.mean
        == IMAGENET_MEAN
    )


def test_own_file_rebuilds_the_network_and_equal_weights_give_equal_bytes(
    tmp_path: Path, vit: torch.nn.Module, crops: NDArray[np.uint8]
) -> None:
    meta = BackboneMeta(
        name="tiny-test",
        architecture="vit_tiny_patch16_224",
        kwargs=VIT,
        dimension=192,
        input_px=32,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        interpolation="bilinear",
    )
    for name in ("a.safetensors", "b.safetensors"):
        save_backbone(tmp_path / name, state_dict=vit.state_dict(), meta=meta)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    embedder = _load(tmp_path / "a.safetensors")
    assert (embedder.name, embedder.dimension, embedder.preprocessing) == (
        "tiny-test",
        192,
        meta.preprocessing,
    )
    assert embedder.embed(crops) == pytest.approx(_expect(vit, crops), abs=0.02)
    assert describe_embedder(EmbedderConfig(weights=f"file:{tmp_path / 'a.safetensors'}")) == {
        "name": "tiny-test",
        "dimension": 192,
        "input_px": 32,
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "interpolation": "bilinear",
    }


def test_preprocessing_resizes_as_pillow_does() -> None:
    rng = np.random.default_rng(9)
    coarse = Pillow.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    crop = np.asarray(coarse.resize((224, 224), Pillow.Resampling.BICUBIC))
    expected = np.asarray(Pillow.fromarray(crop).resize((96, 96), Pillow.Resampling.BICUBIC)) / 255
    seen = Preprocessing(96, (0, 0, 0), (1, 1, 1), "bicubic").apply(torch.from_numpy(crop.copy())[None])
    assert seen[0].permute(1, 2, 0).numpy() == pytest.approx(expected, abs=2 / 255)


def test_hostile_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "was-run"),)

    torch.save({"teacher": {"cls_token": Hostile()}}, tmp_path / "hostile.pth")
    message = _refusal(tmp_path / "hostile.pth")
    assert "nothing in it was run" in message
    assert "weights_only=False" not in message
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_file_is_refused_by_name(tmp_path: Path, vit: torch.nn.Module, suffix: str) -> None:
    path = tmp_path / f"cut short{suffix}"
    if suffix == ".pth":
        torch.save(vit.state_dict(), path)
    else:
        save_file(vit.state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert str(path) in _refusal(path)


@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"these are no weights\n" * 40])
def test_text_file_is_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert str(tmp_path / name) in _refusal(tmp_path / name)


def test_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    assert "does not exist" in _refusal(tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match="absent"):
        embedder_digest(EmbedderConfig(weights=f"file:{tmp_path / 'absent.pth'}"))


def test_wrong_architecture_lists_what_does_not_fit(tmp_path: Path, vit: torch.nn.Module) -> None:
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    message = _refusal(tmp_path / "vit.pth", architecture="resnet18")
    assert "conv1.weight" in message
    assert "patch_embed.proj.weight" in message
    assert "unexpected" in message
    assert "of another shape" in _refusal(tmp_path / "vit.pth", architecture="vit_small_patch16_224")


def test_missing_keys_are_listed(tmp_path: Path, vit: torch.nn.Module) -> None:
    state = {key: t for key, t in vit.state_dict().items() if key != "norm.weight"}
    torch.save(state, tmp_path / "vit.pth")
    assert "1 missing (norm.weight)" in _refusal(tmp_path / "vit.pth")


def test_network_that_cannot_be_inferred_must_be_stated(tmp_path: Path) -> None:
    torch.save({"stem.conv.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    assert "embedder.architecture" in _refusal(tmp_path / "other.pth")
    torch.save([1, 2, 3], tmp_path / "list.pth")
    assert "holds a list" in _refusal(tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    assert "no tensors" in _refusal(tmp_path / "empty.pth")
    assert "no network of timm" in _refusal(tmp_path / "other.pth", architecture="vit_imaginary")


def test_weights_that_give_no_finite_vector_are_refused(tmp_path: Path, vit: torch.nn.Module) -> None:
    torch.save({key: t * float("nan") for key, t in vit.state_dict().items()}, tmp_path / "nan.pth")
    assert "finite" in _refusal(tmp_path / "nan.pth")


def test_detector_given_as_backbone_is_refused(tmp_path: Path) -> None:
    save_file(
        {"a": torch.zeros(1)},
        tmp_path / "detector.safetensors",
        {"fossilray": '{"format":"fossilray-detector/1"}'},
    )
    assert "of format 'fossilray-detector/1', not fossilray-backbone/1" in _refusal(
        tmp_path / "detector.safetensors"
    )


def test_unknown_source_of_weights_is_refused() -> None:
    for weights in ("bundle", "hub:dino", "file:", "timm:"):
        with pytest.raises(WeightsError, match="expected bundled"):
            load_embedder(EmbedderConfig(weights=weights), device="cpu")
    with pytest.raises(WeightsError, match="no network of timm"):
        load_embedder(EmbedderConfig(weights="timm:vit_imaginary"), device="cpu")


def test_unreachable_hub_names_the_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def unreachable(name: str, *, pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            raise OSError("name or service not known")
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(WeightsError, match="where there is no network"):
        load_embedder(EmbedderConfig(weights="timm:resnet10t"), device="cpu")


def test_hub_weights_bring_their_preprocessing_and_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def from_hub(name: str, *, pretrained: bool = False, **options: Any) -> Any:
        torch.manual_seed(10)
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", from_hub)
    config = EmbedderConfig(weights="timm:resnet10t")
    embedder = load_embedder(config, device="cpu")
    assert isinstance(embedder, BackboneEmbedder)
    assert (embedder.name, embedder.dimension) == ("timm:resnet10t", 512)
    assert embedder.preprocessing.size_px == 176
    assert embedder_digest(config) == embedder_digest(config)
    assert list(embedder_digest(config)) == ["timm:resnet10t"]
