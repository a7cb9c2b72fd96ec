"""Why a head names crops as it does: maps that lie where the reason is, and sheets that show them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from click.testing import Result
from numpy.typing import NDArray
from PIL import Image as Pillow
from support.classified_run import predict as answer_run
from support.small_run import write_small_run
from typer.testing import CliRunner

from fossilray.analysis.explain.attention import attention_layers, attention_rollout, gradient_attention
from fossilray.analysis.explain.crops import material_of_run
from fossilray.analysis.explain.gradcam import feature_maps, grad_cam, guided_grad_cam, guided_gradient
from fossilray.analysis.explain.open_backbone import family_of, score_of
from fossilray.analysis.explain.selection import choose_confused, choose_uncertain
from fossilray.cli.main import app
from fossilray.core.errors import FossilrayError, UsageError
from fossilray.models.backbones.backbone_file import BackboneMeta, save_backbone
from fossilray.models.backbones.embedder import Preprocessing
from fossilray.models.heads.fit import train_head
from fossilray.models.heads.head import HEAD_KINDS, BackboneReference
from fossilray.store import RunStore
from fossilray.store.query.connection import run_query

SIDE = 64


def network_of(name: str, *, seed: int = 0, **arguments: object) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(name, num_classes=0, **arguments).eval().requires_grad_(False)


def noise(count: int, side: int, *, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def marked(place: tuple[int, int], *, cross: bool, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Clear field with a dark mark of 16 px somewhere: a cross, or a ring."""
    image = np.full((SIDE, SIDE, 3), 220.0)
    y, x = np.mgrid[-1:1:16j, -1:1:16j]
    radius = np.hypot(x, y)
    mask = (np.abs(x) < 0.25) | (np.abs(y) < 0.25) if cross else (radius > 0.5) & (radius < 0.9)
    image[place[1] : place[1] + 16, place[0] : place[0] + 16][mask] = 40
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def marks_filter() -> tuple[torch.nn.Module, Preprocessing]:
    """One layer that answers to crosses and to rings, wherever they are, and to nothing else."""
    rng = np.random.default_rng(0)
    layer = torch.nn.Conv2d(3, 2, 16, stride=4, padding=8, padding_mode="replicate")
    for channel, cross in enumerate((False, True)):
        mark = marked((0, 0), cross=cross, rng=rng)[:16, :16].mean(axis=2)
        template = torch.from_numpy((mark - mark.mean()) / np.linalg.norm(mark - mark.mean()) / 3)
        layer.weight.data[channel] = template.float()
    # Half of what its own mark gives (5.5); the other mark, the field and noise give less.
    layer.bias.data[:] = -2.7
    network = Plain(torch.nn.Sequential(layer, torch.nn.ReLU()))
    shown = Preprocessing(SIDE, (0.8, 0.8, 0.8), (1.0, 1.0, 1.0), "bilinear")
    return network.eval().requires_grad_(False), shown


class Plain(torch.nn.Module):
    """Convolutions and the mean over the grid, cut as timm cuts its networks."""

    def __init__(self, layers: torch.nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward_features(self, seen: torch.Tensor) -> torch.Tensor:
        return self.layers(seen)

    def forward_head(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.mean(dim=(2, 3))

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(seen))


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_the_map_lies_on_the_mark_that_makes_the_class(kind: str) -> None:
    network, shown = marks_filter()
    rng = np.random.default_rng(5)
    label = np.arange(40) % 2
    places = 4 * rng.integers(0, 13, (40, 2))
    crops = np.stack(
        [marked((x, y), cross=bool(one), rng=rng) for one, (x, y) in zip(label, places.tolist(), strict=True)]
    )
    vectors = network(shown.apply(torch.from_numpy(crops))).numpy()
    head = train_head(
        vectors, label, ["ring", "cross"], kind=kind, backbone=BackboneReference(name="n", sha256="")
    )
    assert (head.predict(vectors).argmax(axis=1) == label).all()
    for x, y in ((0, 0), (48, 0), (0, 48), (48, 48), (16, 32)):
        for cross in (False, True):
            seen = shown.apply(torch.from_numpy(marked((x, y), cross=cross, rng=rng)[None]))
            score = score_of(head, np.array([int(cross)]))
            for heat in (grad_cam(network, seen, score)[0], guided_grad_cam(network, seen, score)[0]):
                cell = SIDE / heat.shape[0]
                down, right = (slice(int(max(at - 6, 0) / cell), int((at + 22) / cell) + 1) for at in (y, x))
                assert float(heat.sum()) > 0
                assert float(heat[down, right].sum() / heat.sum()) > 0.95


def test_behind_an_average_and_one_layer_grad_cam_is_cam() -> None:
    """Zhou et al. 2016, eq. 2; Selvaraju et al. 2017, section 3.1 prove it, but for the number of cells."""
    network = network_of("resnet18")
    seen = noise(2, 96)
    weight = torch.randn(512, generator=torch.Generator().manual_seed(2))
    maps = network.forward_features(seen)
    cam = torch.einsum("c,nchw->nhw", weight, maps).clamp(min=0) / maps[0, 0].numel()
    assert torch.allclose(
        grad_cam(network, seen, lambda vectors: vectors @ weight), cam, rtol=1e-4, atol=1e-6
    )


def test_grad_cam_is_that_of_pytorch_grad_cam() -> None:
    library = pytest.importorskip("pytorch_grad_cam", reason="pip install --no-deps grad-cam ttach")
    network = network_of("test_efficientnet")
    seen = noise(1, 160).requires_grad_()
    theirs = library.GradCAM(network, [network.bn2]).forward(seen, [lambda vector: vector[3]])[0]
    own = grad_cam(network, seen.detach(), lambda vectors: vectors[:, 3])
    own = torch.nn.functional.interpolate(own[None], (160, 160), mode="bilinear", align_corners=False)[0, 0]
    assert np.corrcoef(own.detach().numpy().ravel(), theirs.ravel())[0, 1] > 0.999


def test_guided_gradients_are_those_of_a_network_whose_relus_cut_both_ways() -> None:
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
    seen = noise(1, 64)
    pixels = seen.clone().requires_grad_()
    (expected,) = torch.autograd.grad(other(pixels)[:, 7].sum(), pixels)
    own = guided_gradient(network, seen, lambda vectors: vectors[:, 7])
    assert torch.allclose(own, expected, rtol=1e-4, atol=1e-7)
    plain_pixels = seen.clone().requires_grad_()
    (plain,) = torch.autograd.grad(network(plain_pixels)[:, 7].sum(), plain_pixels)
    assert not torch.allclose(own, plain), "and nothing stays behind in the network"


def attentions_by_hand(network: torch.nn.Module, seen: torch.Tensor) -> list[torch.Tensor]:
    """softmax(q k / sqrt(d)) of each block, from the weights alone."""
    tokens = network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(seen))))
    found = []
    for block in network.blocks:
        given = block.norm1(tokens)
        heads = block.attn.num_heads
        q, k, _ = (given @ block.attn.qkv.weight.T + block.attn.qkv.bias).chunk(3, dim=-1)
        q, k = (one.unflatten(-1, (heads, -1)).transpose(1, 2) for one in (q, k))
        found.append((q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1))
        tokens = block(tokens)
    return found


@pytest.mark.parametrize("arguments", [{}, {"class_token": False, "global_pool": "avg"}])
def test_attention_rollout_is_the_product_of_what_each_layer_passes_on(arguments: dict[str, object]) -> None:
    network = network_of("vit_tiny_patch16_224", img_size=64, depth=3, **arguments)
    seen = noise(2, 64)
    prefixes = 0 if arguments else 1
    expected = []
    with torch.inference_mode():
        by_hand = attentions_by_hand(network, seen)
    for image in range(2):
        flow = np.eye(16 + prefixes)
        for layer in by_hand:
            passed = layer[image].mean(0).numpy() + np.eye(16 + prefixes)
            flow = (passed / passed.sum(axis=1, keepdims=True)) @ flow
        row = flow.mean(axis=0) if arguments else flow[0]
        expected.append(row[prefixes:].reshape(4, 4))
    assert np.allclose(attention_rollout(network, seen).numpy(), expected, atol=1e-5)
    assert all(layer.fused_attn for layer in attention_layers(network)), "the network is left as it was"


def test_gradient_attention_of_one_layer_is_attention_times_its_slope() -> None:
    """Chefer et al. 2021, eq. 5; the slope by finite differences of the attention itself."""
    network = network_of("vit_tiny_patch16_224", img_size=32, patch_size=16, depth=1)
    seen = noise(1, 32)
    with torch.inference_mode():
        (attention,) = attentions_by_hand(network, seen)
    block, added = network.blocks[0], torch.zeros_like(attention)
    handle = block.attn.attn_drop.register_forward_hook(lambda _m, _in, out: out + added)
    block.attn.fused_attn = False
    slope = torch.zeros_like(attention)
    with torch.inference_mode():
        for cell in np.ndindex(*attention.shape):
            values = []
            for step in (-1e-2, 1e-2):
                added[cell] = step
                values.append(float(network(seen)[0, 5]))
            added[cell] = 0
            slope[cell] = (values[1] - values[0]) / 2e-2
    handle.remove()
    expected = (attention * slope).clamp(min=0).mean(dim=1)[0, 0, 1:].reshape(2, 2)
    own = gradient_attention(network, seen, lambda vectors: vectors[:, 5])[0]
    assert torch.allclose(own, expected, rtol=0.05, atol=1e-6)


def test_feature_maps_go_from_fine_to_coarse() -> None:
    fine, middle, coarse = feature_maps(network_of("test_resnet"), noise(1, 160), channels=4)[0]
    sides = [one.maps.shape[-1] for one in (fine, middle, coarse)]
    assert sides == sorted(sides, reverse=True)
    for one in (fine, middle, coarse):
        assert one.maps.shape[0] == len(one.channels) == 4
        assert float(one.maps.min()) == 0
        assert float(one.maps.max()) <= 1


def test_a_network_without_maps_or_attention_is_refused() -> None:
    with pytest.raises(UsageError, match="neither in maps"):
        family_of(network_of("mixer_s32_224"), "mixer", 224)


def test_the_surest_mistakes_of_two_genera_come_first() -> None:
    shares = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.4, 0.6, 0], [0.3, 0.7, 0], [0, 0, 1]], np.float32)
    choice = choose_confused(shares, ["a", "b", "c"], ["a", "a", "a", "b", "c"], ("a", "b"), count=9)
    assert [case.row for case in choice.cases] == [1, 2, 3, 0]
    assert "2 of 3 labelled a are called b; 0 of 1 labelled b are called a" in choice.says
    assert all(case.targets == (0, 1) for case in choice.cases)
    with pytest.raises(UsageError, match="knows no 'd'; it knows a, b, c"):
        choose_confused(shares, ["a", "b", "c"], ["a"] * 5, ("a", "d"), count=9)
    uncertain = choose_uncertain(shares, count=2)
    assert [case.row for case in uncertain.cases] == [2, 3]
    assert uncertain.cases[0].targets == (1, 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Backbones and heads of three genera with names that a page must escape, and images of them."""
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
        made = ask(
            *("classify", "train", "--labels", folder / "labels", "--kind", "logistic"),
            *("--backbone", folder / f"{name}.safetensors", "--out", folder / f"{name}-head.safetensors"),
        )
        assert not made.exit_code, made.exception
    return folder


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def explain(place: Path, network: str, out: Path, *arguments: object) -> Result:
    named = ("--head", place / f"{network}-head.safetensors", "--backbone", place / f"{network}.safetensors")
    return ask("explain", *named, "--out", out, *arguments)


@pytest.mark.parametrize(("network", "maps"), [("cnn", "grad-cam, guided"), ("vit", "rollout, attention")])
def test_sheets_are_drawn_of_chosen_uncertain_and_confused_crops(
    place: Path, tmp_path: Path, network: str, maps: str
) -> None:
    labels = ("--labels", place / "labels")
    for name, arguments in {
        "chosen": ("--crops", place / "labels", "--limit", 3),
        "uncertain": (*labels, "--least-certain", "--limit", 3),
        "confused": (*labels, "--confused", "<b>ring", "cross", "--limit", 3),
    }.items():
        for ending in ("html", "png"):
            out = tmp_path / f"{name}.{ending}"
            answer = explain(place, network, out, *arguments)
            assert not answer.exit_code, answer.exception
            assert f"3 crops explained by {maps}" in answer.output
            assert "broken.png" in answer.output, "what is left out is told"
        page = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        assert "<b>ring" not in page
        assert page.count("<section>") == 3
        assert Pillow.open(tmp_path / f"{name}.png").size[0] > 600


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "say what to explain"),
        (("--crops", "LABELS", "--confused", "a", "b"), "--labels"),
        (("--labels", "LABELS", "--confused", "cross", "nothing"), "knows no 'nothing'"),
        (("--labels", "LABELS", "--confused", "cross", "cross"), "two genera"),
        (("--crops", "LABELS", "--genus", "nothing"), "knows no 'nothing'"),
        (("--crops", "LABELS", "--attribution", "rollout"), "convolutional network"),
        (("--crops", "LABELS", "--object", "a:1"), "--run"),
        (("--crops", "LABELS/none"), "no folder"),
        (("--crops", "LABELS", "--genus", "cross", "--least-certain"), "give one"),
        (("--crops", "LABELS", "--backbone", "VIT"), "the head was trained on vectors of"),
        (("--crops", "LABELS", "--backbone", "handcrafted"), "no file of weights"),
    ],
)
def test_what_cannot_be_explained_is_refused_in_one_sentence(
    place: Path, tmp_path: Path, arguments: tuple[str, ...], why: str
) -> None:
    named = [
        one.replace("LABELS", str(place / "labels")).replace("VIT", str(place / "vit.safetensors"))
        for one in arguments
    ]
    answer = explain(place, "cnn", tmp_path / "a.html", *named)
    assert isinstance(answer.exception, FossilrayError)
    assert why in str(answer.exception)
    assert isinstance(explain(place, "cnn", tmp_path / "a.txt", "--crops", "x").exception, UsageError)


def test_objects_of_a_run_are_explained_by_name_condition_and_doubt(place: Path, tmp_path: Path) -> None:
    run = write_small_run(tmp_path / "run")
    out = tmp_path / "a.png"
    answer = explain(place, "cnn", out, "--run", run.url, "--object", "a-2030:3", "--object", "b-2050:1")
    assert not answer.exit_code, answer.exception
    assert "2 crops" in answer.output
    answer = explain(place, "cnn", out, "--run", run.url, "--where", "object_id < 2", "--limit", "4")
    assert "4 crops" in answer.output
    for arguments, why in (
        (("--object", "a-2030:999"), "no object a-2030:999"),
        (("--object", "a-2030"), "SLIDE:ID"),
        (("--least-certain",), "classify run"),
        (("--where", "width_um < 0"), "no object with pixels"),
    ):
        answer = explain(place, "cnn", out, "--run", run.url, *arguments)
        assert isinstance(answer.exception, UsageError), answer.exception
        assert why in str(answer.exception)


def test_the_least_certain_of_a_run_are_those_of_this_heads_predictions(tmp_path: Path) -> None:
    run: RunStore = write_small_run(tmp_path / "run")
    given = answer_run(run, "genera")
    digest = str((given.record.head or {})["sha256"])
    material = material_of_run(run, head_sha256=digest, count=5, least_certain=True)
    entropy = run_query(
        run, "SELECT slide_id || ':' || object_id AS name, entropy FROM predictions WHERE genus IS NOT NULL"
    )
    by_name = dict(zip(entropy["name"].to_pylist(), entropy["entropy"].to_pylist(), strict=True))
    assert [by_name[name] for name in material.names] == sorted(by_name.values(), reverse=True)[:5]
    assert material.left_out == len(by_name) - 5
