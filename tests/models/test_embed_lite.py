"""EfficientNet-Lite: published weights under timm's names, fast in the end, and frozen in part while it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from fossilray.core.config import EmbedderConfig
from fossilray.core.config.training import TrainConfig
from fossilray.core.errors import WeightsError
from fossilray.models.backbones.architectures import infer_architecture
from fossilray.models.backbones.backbone_file import save_backbone
from fossilray.models.backbones.checkpoints import read_backbone_checkpoint
from fossilray.models.backbones.embedder import BackboneEmbedder
from fossilray.models.backbones.inference_optimisation import optimise_for_inference
from fossilray.models.backbones.load import load_embedder, load_network
from fossilray.training.initial_weights import start_backbone

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def published_names() -> list[str]:
    """The keys of the circulating Lite0 file, in its order."""

    def norm(name: str) -> list[str]:
        return [f"{name}.{part}" for part in NORM]

    names = ["_conv_stem.weight", *norm("_bn0")]
    for block in range(16):
        at = f"_blocks.{block}."
        if block:
            names += [f"{at}_expand_conv.weight", *norm(f"{at}_bn0")]
        names += [f"{at}_depthwise_conv.weight", *norm(f"{at}_bn1")]
        names += [f"{at}_project_conv.weight", *norm(f"{at}_bn2")]
    return [*names, "_conv_head.weight", *norm("_bn1"), "_fc.weight", "_fc.bias"]


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(2)
    made: torch.nn.Module = timm.create_model("tf_efficientnet_lite0").eval()
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    return made


@pytest.fixture(scope="module")
def published(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lite") / "efficientnet-lite0.pth"
    torch.save(dict(zip(published_names(), network.state_dict().values(), strict=True)), path)
    return path


def test_published_weights_are_known_by_their_keys_and_fill_timms_network(
    network: torch.nn.Module, published: Path
) -> None:
    state, _ = read_backbone_checkpoint(published)
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    found, _, shown = load_network(EmbedderConfig(weights=f"file:{published}", input_px=64))
    assert (shown.size_px, shown.mean, shown.std) == (64, (0.5,) * 3, (0.5,) * 3)
    assert "classifier.weight" not in found.state_dict()


@pytest.mark.parametrize("which", range(5))
def test_each_lite_is_identified(which: int) -> None:
    made = timm.create_model(f"tf_efficientnet_lite{which}")
    inferred = infer_architecture(made.state_dict())
    assert inferred is not None
    assert inferred.name == f"tf_efficientnet_lite{which}.in1k"
    # Its larger sister with squeeze-and-excitation is not one of them.
    assert infer_architecture(timm.create_model("tf_efficientnet_b0").state_dict()) is None


def test_norms_that_activate_are_folded_and_the_vectors_stay(network: torch.nn.Module) -> None:
    network.reset_classifier(0)  # type: ignore[operator]
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        expected = network(images)
        tuned = optimise_for_inference(network, side_px=64, device=torch.device("cpu"), dtype=torch.float32)
        found = tuned(images)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in tuned.modules())
    assert found.numpy() == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-4)


def test_frozen_stages_keep_their_weights_and_the_rest_learns(published: Path) -> None:
    config = TrainConfig(init=f"file:{published}", input_px=64, steps=1, frozen_stages=3)
    start = start_backbone(config)
    assert start.preprocessing.mean == (0.5, 0.5, 0.5)
    before = {name: tensor.clone() for name, tensor in start.network.state_dict().items()}
    start.network.train()
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(6))
    start.network(images).square().mean().backward()
    learned = {name for name, p in start.network.named_parameters() if p.grad is not None}
    assert learned
    assert not any(name.startswith(("conv_stem", "bn1.", "blocks.0.", "blocks.1.")) for name in learned)
    after = start.network.state_dict()
    counted = {name for name in after if not torch.equal(after[name], before[name])}
    assert {name.split(".")[1] for name in counted if name.startswith("blocks")} == set("23456")


def test_frozen_backbone_is_saved_as_any_other(published: Path, tmp_path: Path) -> None:
    config = TrainConfig(init=f"file:{published}", input_px=64, steps=1, frozen_stages=2)
    start = start_backbone(config)
    path = tmp_path / "frozen.safetensors"
    save_backbone(path, state_dict=start.network.state_dict(), meta=start.meta(name="lite", input_px=64))
    saved = load_embedder(EmbedderConfig(weights=f"file:{path}"), device="cpu", precision="float32")
    plain = load_embedder(
        EmbedderConfig(weights=f"file:{published}", input_px=64), device="cpu", precision="float32"
    )
    assert isinstance(saved, BackboneEmbedder)
    assert isinstance(plain, BackboneEmbedder)
    crops = np.random.default_rng(7).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    one, other = saved.embed(crops).astype(np.float64), plain.embed(crops).astype(np.float64)
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cosine.min() > 0.999  # kernels were stored in half precision


def test_freezing_everything_and_freezing_noise_are_refused(published: Path) -> None:
    with pytest.raises(WeightsError, match="leaves nothing to train"):
        start_backbone(TrainConfig(init=f"file:{published}", input_px=64, steps=1, frozen_stages=8))
    with pytest.raises(ValueError, match="with init=scratch there are none"):
        TrainConfig(arch="resnet18", steps=1, frozen_stages=2)
