"""Explanations of a head's predictions: maps against independent implementations, and sheets."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import timm
import torch
from click.testing import Result
from numpy.typing import NDArray
from PIL import Image as Pillow
from support.classified_run import predict as classify_run
from support.cli_runner import invoke
from support.small_run import write_small_run

from fossilray.analysis.explain.attention import attention_layers, attention_rollout, gradient_attention
from fossilray.analysis.explain.backbone import family_of, score_of
from fossilray.analysis.explain.crops import crops_from_run
from fossilray.analysis.explain.gradcam import feature_maps, grad_cam, guided_grad_cam, guided_gradient
from fossilray.analysis.explain.selection import select_confused, select_uncertain
from fossilray.core.config.choices import HeadKind
from fossilray.core.errors import FossilrayError, UsageError
from fossilray.models.backbones.backbone_file import BackboneMeta, save_backbone
from fossilray.models.backbones.embedder import Preprocessing
from fossilray.models.heads.fit import train_head
from fossilray.models.heads.head import BackboneReference
from fossilray.store import RunStore
from fossilray.store.query.connection import run_query

SIDE = 64


def network_of(name: str, *, seed: int = 0, **arguments: object) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(name, num_classes=0, **arguments).eval().requires_grad_(False)


def noise(count: int, side: int, *, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def marked(corner: tuple[int, int], *, cross: bool, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a clear background with a dark mark of 16 px, a cross or a ring, whose top left corner is given."""
    image = np.full((SIDE, SIDE, 3), 220.0)
    y, x = np.mgrid[-1:1:16j, -1:1:16j]
    radius = np.hypot(x, y)
    mask = (np.abs(x) < 0.25) | (np.abs(y) < 0.25) if cross else (radius > 0.5) & (radius < 0.9)
    image[corner[1] : corner[1] + 16, corner[0] : corner[0] + 16][mask] = 40
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def mark_detector() -> tuple[torch.nn.Module, Preprocessing]:
    """Return a network of one layer that responds to crosses and to rings anywhere, and to nothing else."""
    rng = np.random.default_rng(0)
    layer = torch.nn.Conv2d(3, 2, 16, stride=4, padding=8, padding_mode="replicate")
    for channel, cross in enumerate((False, True)):
        mark = marked((0, 0), cross=cross, rng=rng)[:16, :16].mean(axis=2)
        template = torch.from_numpy((mark - mark.mean()) / np.linalg.norm(mark - mark.mean()) / 3)
        layer.weight.data[channel] = template.float()
    # Half the response to its mark (5.5), above the response to the other mark, the background and noise.
    layer.bias.data[:] = -2.7
    network = Plain(torch.nn.Sequential(layer, torch.nn.ReLU()))
    preprocessing = Preprocessing(SIDE, (0.8, 0.8, 0.8), (1.0, 1.0, 1.0), "bilinear")
    return network.eval().requires_grad_(False), preprocessing


class Plain(torch.nn.Module):
    """Convolutions and the mean over the grid, divided into features and head as timm's networks are."""

    def __init__(self, layers: torch.nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)

    def forward_head(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.mean(dim=(2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(images))


@pytest.mark.parametrize("kind", get_args(HeadKind))
def test_the_map_is_on_the_mark_that_determines_the_class(kind: str) -> None:
    network, preprocessing = mark_detector()
    rng = np.random.default_rng(5)
    label = np.arange(40) % 2
    corners = 4 * rng.integers(0, 13, (40, 2))
    crops = np.stack(
        [
            marked((x, y), cross=bool(is_cross), rng=rng)
            for is_cross, (x, y) in zip(label, corners.tolist(), strict=True)
        ]
    )
    vectors = network(preprocessing.apply(torch.from_numpy(crops))).numpy()
    head = train_head(
        vectors, label, ["ring", "cross"], kind=kind, backbone=BackboneReference(name="n", sha256="")
    )
    assert (head.predict(vectors).argmax(axis=1) == label).all()
    for x, y in ((0, 0), (48, 0), (0, 48), (48, 48), (16, 32)):
        for cross in (False, True):
            images = preprocessing.apply(torch.from_numpy(marked((x, y), cross=cross, rng=rng)[None]))
            score = score_of(head, np.array([int(cross)]))
            for heat in (grad_cam(network, images, score)[0], guided_grad_cam(network, images, score)[0]):
                cell = SIDE / heat.shape[0]
                down, right = (slice(int(max(at - 6, 0) / cell), int((at + 22) / cell) + 1) for at in (y, x))
                assert float(heat.sum()) > 0
                assert float(heat[down, right].sum() / heat.sum()) > 0.95


def test_grad_cam_equals_cam_for_global_pooling_and_one_linear_layer() -> None:
    """Zhou et al. 2016, eq. 2; the proof, up to the number of cells, is in Selvaraju et al. 2017, section 3.1."""
    network = network_of("resnet18")
    images = noise(2, 96)
    weight = torch.randn(512, generator=torch.Generator().manual_seed(2))
    maps = network.forward_features(images)
    cam = torch.einsum("c,nchw->nhw", weight, maps).clamp(min=0) / maps[0, 0].numel()
    assert torch.allclose(
        grad_cam(network, images, lambda vectors: vectors @ weight), cam, rtol=1e-4, atol=1e-6
    )


def test_grad_cam_equals_that_of_pytorch_grad_cam() -> None:
    library = pytest.importorskip("pytorch_grad_cam", reason="pip install --no-deps grad-cam ttach")
    network = network_of("test_efficientnet")
    images = noise(1, 160).requires_grad_()
    theirs = library.GradCAM(network, [network.bn2]).forward(images, [lambda vector: vector[3]])[0]
    own = grad_cam(network, images.detach(), lambda vectors: vectors[:, 3])
    own = torch.nn.functional.interpolate(own[None], (160, 160), mode="bilinear", align_corners=False)[0, 0]
    assert np.corrcoef(own.detach().numpy().ravel(), theirs.ravel())[0, 1] > 0.999


def test_guided_gradients_equal_those_of_a_network_with_guided_relus() -> None:
    class Guided(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, given: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(given)  # type: ignore[attr-defined]
            return given.clamp(min=0)

        @staticmethod
        def backward(ctx: object, slope: torch.Tensor) -> torch.Tensor:
            (given,) = ctx.saved_tensors  # type: ignore[attr-defined]
            return slope * (slope > 0) * (given > 0)

    class Cut(torch.nn.Module):
        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return Guided.apply(given)

    network, other = network_of("resnet18"), network_of("resnet18")
    for module in list(other.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.ReLU):
                setattr(module, name, Cut())
    images = noise(1, 64)
    pixels = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(other(pixels)[:, 7].sum(), pixels)
    own = guided_gradient(network, images, lambda vectors: vectors[:, 7])
    assert torch.allclose(own, expected, rtol=1e-4, atol=1e-7)
    plain_pixels = images.clone().requires_grad_()
    (plain,) = torch.autograd.grad(network(plain_pixels)[:, 7].sum(), plain_pixels)
    assert not torch.allclose(own, plain), "hooks remain in the network"


def attentions_by_hand(network: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Compute softmax(q k / sqrt(d)) of each block from the weights."""
    tokens = network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(images))))
    found = []
    for block in network.blocks:
        given = block.norm1(tokens)
        heads = block.attn.num_heads
        q, k, _ = (given @ block.attn.qkv.weight.T + block.attn.qkv.bias).chunk(3, dim=-1)
        q, k = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k))
        found.append((q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1))
        tokens = block(tokens)
    return found


@pytest.mark.parametrize("arguments", [{}, {"class_token": False, "global_pool": "avg"}])
def test_attention_rollout_is_the_product_of_the_attention_of_layers(arguments: dict[str, object]) -> None:
    network = network_of("vit_tiny_patch16_224", img_size=64, depth=3, **arguments)
    images = noise(2, 64)
    prefixes = 0 if arguments else 1
    expected = []
    with torch.inference_mode():
        by_hand = attentions_by_hand(network, images)
    for image in range(2):
        flow = np.eye(16 + prefixes)
        for layer in by_hand:
            passed = layer[image].mean(0).numpy() + np.eye(16 + prefixes)
            flow = (passed / passed.sum(axis=1, keepdims=True)) @ flow
        row = flow.mean(axis=0) if arguments else flow[0]
        expected.append(row[prefixes:].reshape(4, 4))
    assert np.allclose(attention_rollout(network, images).numpy(), expected, atol=1e-5)
    assert all(layer.fused_attn for layer in attention_layers(network)), "the network is changed"


def test_gradient_attention_of_one_layer_is_attention_times_its_gradient() -> None:
    """Chefer et al. 2021, eq. 5, with the gradient by finite differences of the attention."""
    network = network_of("vit_tiny_patch16_224", img_size=32, patch_size=16, depth=1)
    images = noise(1, 32)
    with torch.inference_mode():
        (attention,) = attentions_by_hand(network, images)
    block, added = network.blocks[0], torch.zeros_like(attention)
    handle = block.attn.attn_drop.register_forward_hook(lambda _m, _in, out: out + added)
    block.attn.fused_attn = False
    slope = torch.zeros_like(attention)
    with torch.inference_mode():
        for cell in np.ndindex(*attention.shape):
            values = []
            for step in (-1e-2, 1e-2):
                added[cell] = step
                values.append(float(network(images)[0, 5]))
            added[cell] = 0
            slope[cell] = (values[1] - values[0]) / 2e-2
    handle.remove()
    expected = (attention * slope).clamp(min=0).mean(dim=1)[0, 0, 1:].reshape(2, 2)
    own = gradient_attention(network, images, lambda vectors: vectors[:, 5])[0]
    assert torch.allclose(own, expected, rtol=0.05, atol=1e-6)


def test_feature_maps_are_ordered_from_fine_to_coarse() -> None:
    fine, middle, coarse = feature_maps(network_of("test_resnet"), noise(1, 160), channels=4)[0]
    sides = [layer.maps.shape[-1] for layer in (fine, middle, coarse)]
    assert sides == sorted(sides, reverse=True)
    for layer in (fine, middle, coarse):
        assert layer.maps.shape[0] == len(layer.channels) == 4
        assert float(layer.maps.min()) == 0
        assert float(layer.maps.max()) <= 1


def test_a_network_without_maps_or_attention_is_refused() -> None:
    with pytest.raises(UsageError, match="neither in feature maps"):
        family_of(network_of("mixer_s32_224"), "mixer", 224)


def test_wrong_predictions_of_two_genera_come_first() -> None:
    shares = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.4, 0.6, 0], [0.3, 0.7, 0], [0, 0, 1]], np.float32)
    selection = select_confused(shares, ["a", "b", "c"], ["a", "a", "a", "b", "c"], ("a", "b"), count=9)
    assert [target.row for target in selection.targets] == [1, 2, 3, 0]
    assert (
        "2 of 3 crops labelled a are predicted as b; 0 of 1 crops labelled b are predicted as a"
        in selection.caption
    )
    assert all(target.classes == (0, 1) for target in selection.targets)
    with pytest.raises(UsageError, match="has no class 'd'; its classes: a, b, c"):
        select_confused(shares, ["a", "b", "c"], ["a"] * 5, ("a", "d"), count=9)
    uncertain = select_uncertain(shares, count=2)
    assert [target.row for target in uncertain.targets] == [2, 3]
    assert uncertain.targets[0].classes == (1, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of backbones, heads and labelled images, with a genus whose name a page must escape."""
    folder = tmp_path_factory.mktemp("explain")
    rng = np.random.default_rng(3)
    for genus, cross in (("<b>ring", False), ("cross", True)):
        (folder / "labels" / genus).mkdir(parents=True)
        for number in range(5):
            image = marked(tuple(rng.integers(0, 48, 2)), cross=cross, rng=rng)[: 64 - 4 * number]
            Pillow.fromarray(image).save(folder / "labels" / genus / f"{number}.png")
    (folder / "labels" / "cross" / "broken.png").write_bytes(b"no image")
    for name, architecture, arguments in (
        ("cnn", "test_efficientnet", {}),
        ("vit", "vit_tiny_patch16_224", {"img_size": 64, "depth": 2}),
    ):
        network = network_of(architecture, **arguments)
        size = 160 if name == "cnn" else 64
        meta = BackboneMeta(
            name=name,
            architecture=architecture,
            kwargs=arguments,
            dimension=network.num_features,
            input_px=size,
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
            interpolation="bilinear",
        )
        save_backbone(folder / f"{name}.safetensors", state_dict=network.state_dict(), meta=meta)
        trained = invoke(
            *("classify", "train", "--labels", folder / "labels", "--kind", "logistic"),
            *("--backbone", folder / f"{name}.safetensors", "--out", folder / f"{name}-head.safetensors"),
        )
        assert not trained.exit_code, trained.exception
    return folder


def explain(folder: Path, network: str, out: Path, *arguments: object) -> Result:
    named = (
        "--head",
        folder / f"{network}-head.safetensors",
        "--backbone",
        folder / f"{network}.safetensors",
    )
    return invoke("explain", *named, "--out", out, *arguments)


@pytest.mark.parametrize(("network", "maps"), [("cnn", "grad-cam, guided"), ("vit", "rollout, attention")])
def test_sheets_are_drawn_of_chosen_uncertain_and_confused_crops(
    folder: Path, tmp_path: Path, network: str, maps: str
) -> None:
    labels = ("--labels", folder / "labels")
    for name, arguments in {
        "chosen": ("--crops", folder / "labels", "--limit", 3),
        "uncertain": (*labels, "--highest-entropy", "--limit", 3),
        "confused": (*labels, "--confused", "<b>ring", "cross", "--limit", 3),
    }.items():
        for ending in ("html", "png"):
            out = tmp_path / f"{name}.{ending}"
            result = explain(folder, network, out, *arguments)
            assert not result.exit_code, result.exception
            assert f"3 crops explained by {maps}" in result.output
            assert "broken.png" in result.output, "an unreadable image is not reported"
        page = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        assert "<b>ring" not in page
        assert page.count("<section>") == 3
        assert Pillow.open(tmp_path / f"{name}.png").size[0] > 600


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "no crops to explain are named"),
        (("--crops", "LABELS", "--confused", "a", "b"), "--labels"),
        (("--labels", "LABELS", "--confused", "cross", "nothing"), "has no class 'nothing'"),
        (("--labels", "LABELS", "--confused", "cross", "cross"), "two different genera"),
        (("--crops", "LABELS", "--genus", "nothing"), "has no class 'nothing'"),
        (("--crops", "LABELS", "--attribution", "rollout"), "convolutional network"),
        (("--crops", "LABELS", "--object", "a:1"), "--run"),
        (("--crops", "LABELS/none"), "is not a folder"),
        (("--crops", "LABELS", "--genus", "cross", "--highest-entropy"), "give one"),
        (("--crops", "LABELS", "--backbone", "VIT"), "the head was trained on vectors of"),
        (("--crops", "LABELS", "--backbone", "handcrafted"), "has no weights to explain"),
    ],
)
def test_what_cannot_be_explained_is_refused(
    folder: Path, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    named = [
        argument.replace("LABELS", str(folder / "labels")).replace("VIT", str(folder / "vit.safetensors"))
        for argument in arguments
    ]
    result = explain(folder, "cnn", tmp_path / "a.html", *named)
    assert isinstance(result.exception, FossilrayError)
    assert reason in str(result.exception)
    assert isinstance(explain(folder, "cnn", tmp_path / "a.txt", "--crops", "x").exception, UsageError)


def test_objects_of_a_run_are_selected_by_name_and_condition(folder: Path, tmp_path: Path) -> None:
    run = write_small_run(tmp_path / "run")
    out = tmp_path / "a.png"
    result = explain(folder, "cnn", out, "--run", run.url, "--object", "a-2030:3", "--object", "b-2050:1")
    assert not result.exit_code, result.exception
    assert "2 crops" in result.output
    result = explain(folder, "cnn", out, "--run", run.url, "--where", "object_id < 2", "--limit", "4")
    assert "4 crops" in result.output
    for arguments, reason in (
        (("--object", "a-2030:999"), "no object a-2030:999"),
        (("--object", "a-2030"), "SLIDE:ID"),
        (("--highest-entropy",), "classify run"),
        (("--where", "width_um < 0"), "no object with pixels"),
    ):
        result = explain(folder, "cnn", out, "--run", run.url, *arguments)
        assert isinstance(result.exception, UsageError), result.exception
        assert reason in str(result.exception)


def test_the_highest_entropy_objects_of_a_run_are_those_of_the_heads_predictions(tmp_path: Path) -> None:
    run: RunStore = write_small_run(tmp_path / "run")
    predictions = classify_run(run, "genera")
    digest = str((predictions.record.head or {})["sha256"])
    crops = crops_from_run(run, head_sha256=digest, count=5, highest_entropy=True)
    entropy = run_query(
        run, "SELECT slide_id || ':' || object_id AS name, entropy FROM predictions WHERE genus IS NOT NULL"
    )
    by_name = dict(zip(entropy["name"].to_pylist(), entropy["entropy"].to_pylist(), strict=True))
    assert [by_name[name] for name in crops.names] == sorted(by_name.values(), reverse=True)[:5]
    assert crops.left_out == len(by_name) - 5
