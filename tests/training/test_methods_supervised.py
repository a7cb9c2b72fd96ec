"""Metric and transfer learning: losses beside loops over the papers' equations; trainings learn shapes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from support.cli_runner import run_command
from support.small_training import TINY, crops, losses
from support.synthetic_crops import draw_folder

from fossilray.core.config import EmbedderConfig, TrainConfig
from fossilray.core.config.training_supervised import MetricConfig
from fossilray.core.errors import UsageError
from fossilray.labels.load import load_labels
from fossilray.models.backbones.load import load_embedder
from fossilray.models.heads import load_head
from fossilray.training.augmentation.fossil_image_dataset import TransferViews
from fossilray.training.checkpoint import latest_checkpoint
from fossilray.training.data import make_batches, open_training_crops
from fossilray.training.loop import TrainingLoop
from fossilray.training.methods.metric import MetricLearning
from fossilray.training.methods.metric_losses import MetricLossModule
from fossilray.training.methods.transfer import class_weights
from fossilray.training.schedules import learning_rate
from fossilray.training.step import TrainingStep

LABEL = np.array([0, 0, 1, 1, 2, 2, 0])

__all__ = ["crops"]

pytestmark = pytest.mark.usefixtures("one_thread")


def some_vectors() -> NDArray[np.float64]:
    vectors = np.random.default_rng(4).normal(size=(len(LABEL), 5))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def loss_of(vectors: NDArray[np.float64], **given: Any) -> float:
    loss = MetricLossModule(MetricConfig(**given), dimension=5, classes=3)
    return float(loss(torch.from_numpy(vectors * 3).float(), torch.from_numpy(LABEL)))


def triplets_in_loops(vectors: NDArray[np.float64], margin: float, *, semihard: bool) -> float:
    """Schroff et al. 2015, eq. 1 and 4, averaged over the triplets that cost anything."""
    costs = []
    for a in range(len(LABEL)):
        for p in range(len(LABEL)):
            for n in range(len(LABEL)):
                if a == p or LABEL[a] != LABEL[p] or LABEL[a] == LABEL[n]:
                    continue
                near, far = (float(((vectors[a] - vectors[other]) ** 2).sum()) for other in (p, n))
                if semihard and not near < far <= near + margin:
                    continue
                costs.append(max(near - far + margin, 0))
    positive = [cost for cost in costs if cost > 0]
    return sum(positive) / len(positive)


@pytest.mark.parametrize("semihard", [False, True])
def test_triplet_loss_is_that_of_loops_over_the_papers_equation(semihard: bool) -> None:
    vectors = some_vectors()
    found = loss_of(vectors, loss="triplet", margin=0.4, miner="semihard" if semihard else "all")
    assert found == pytest.approx(triplets_in_loops(vectors, 0.4, semihard=semihard), rel=1e-5)


def test_multi_similarity_loss_is_that_of_the_papers_equation() -> None:
    """Wang et al. 2019, eq. 14, with alpha 2, beta 50 and lambda 1."""
    vectors = some_vectors()
    similar, total = vectors @ vectors.T, 0.0
    for i in range(len(LABEL)):
        others = [k for k in range(len(LABEL)) if k != i]
        own = sum(math.exp(-2 * (similar[i, k] - 1)) for k in others if LABEL[k] == LABEL[i])
        foreign = sum(math.exp(50 * (similar[i, k] - 1)) for k in others if LABEL[k] != LABEL[i])
        total += math.log1p(own) / 2 + math.log1p(foreign) / 50
    assert loss_of(vectors, loss="multisimilarity", miner="none") == pytest.approx(
        total / len(LABEL), rel=1e-5
    )


def test_proxy_anchor_loss_is_that_of_the_papers_equation_and_its_proxies_learn_faster(crops: Path) -> None:
    """Kim et al. 2020, eq. 4."""
    torch.manual_seed(2)
    loss = MetricLossModule(MetricConfig(loss="proxyanchor"), dimension=5, classes=3)
    (proxies,) = loss.parameters()
    vectors, held = some_vectors(), proxies.detach().numpy().astype(float)
    similar = vectors @ (held / np.linalg.norm(held, axis=1, keepdims=True)).T
    near = sum(math.log1p(sum(np.exp(-32 * (similar[c == LABEL, c] - 0.1)))) for c in range(3)) / 3
    far = sum(math.log1p(sum(np.exp(32 * (similar[c != LABEL, c] + 0.1)))) for c in range(3)) / 3
    found = float(loss(torch.from_numpy(vectors).float(), torch.from_numpy(LABEL)).detach())
    assert found == pytest.approx(near + far, rel=1e-4)
    loop = TrainingLoop(
        a_config(crops, metric={"loss": "proxyanchor"}),
        open_training_crops(a_config(crops).data),
        folder=crops,
    )
    learner: TrainingStep = loop._step
    assert isinstance(learner.method, MetricLearning)
    learner._set_rates(0.0, 0.5)
    rates = [group["lr"] for group in learner.optimiser.param_groups]
    assert rates[2] == pytest.approx(100 * rates[0])


def test_supervised_contrast_of_the_library_is_our_own() -> None:
    from fossilray.training.methods.contrastive_losses import supervised_contrast

    vectors = some_vectors()
    own = supervised_contrast(torch.from_numpy(vectors), torch.from_numpy(LABEL), temperature=0.2)
    assert loss_of(vectors, loss="supcon", temperature=0.2) == pytest.approx(float(own), rel=1e-5)


def test_a_miner_that_does_not_serve_the_loss_is_refused() -> None:
    with pytest.raises(UsageError, match=r"set metric\.miner=none"):
        MetricLossModule(MetricConfig(loss="supcon", miner="hard"), dimension=4, classes=2)


def a_config(crops: Path, **given: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "method": "metric",
            "arch": "resnet18",
            "arch_kwargs": TINY,
            "input_px": 32,
            "views": {"early_px": None},
            "data": {"sources": [str(crops)]},
            "precision": "float32",
            "log_every": 1,
            "device": "cpu",
            **({} if "epochs" in given else {"steps": 6}),
            **given,
            **(
                {"metric": {"classes_per_batch": 4, **given.get("metric", {})}}
                if "transfer" not in given
                else {}
            ),
        }
    )


@pytest.mark.parametrize("loss", ["triplet", "multisimilarity", "proxyanchor", "supcon"])
def test_each_loss_brings_drawn_shapes_together(loss: str, crops: Path, tmp_path: Path) -> None:
    config = a_config(
        crops, steps=40, metric={"loss": loss, "dimension": 12}, schedule={"learning_rate": 1e-2}
    )
    result = TrainingLoop(config, open_training_crops(config.data), folder=tmp_path).run()
    assert result.probe["nearest_f1"] > 0.6  # of four classes; by chance 0.25
    embedder = load_embedder(EmbedderConfig(weights=f"file:{result.backbone}"), device="cpu")
    assert embedder is not None
    assert embedder.embed(np.full((2, 224, 224, 3), 200, np.uint8)).shape == (2, 12)


def test_the_command_trains_and_resumes_from_its_checkpoint(crops: Path, tmp_path: Path) -> None:
    words = [
        "train",
        "metric",
        str(tmp_path / "out"),
        "--source",
        str(crops),
        "--loss",
        "supcon",
        "--arch",
        "resnet18",
    ]
    for setting in (
        "arch_kwargs.channels=[8,8,16,16]",
        "input_px=32",
        "views.early_px=null",
        "steps=3",
        "device=cpu",
    ):
        words += ["--train-set", setting]
    assert "3 steps" in run_command(*words, "--local")
    assert (tmp_path / "out" / "backbone.safetensors").is_file()
    longer = [word.replace("steps=3", "steps=5") for word in words]
    assert "5 steps" in run_command(*longer, "--local")
    with pytest.raises(UsageError, match="does not exist"):
        run_command("train", "metric", "o", "--source", "nowhere", "--local")


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    config = a_config(draw_folder(tmp_path / "one", classes=1))
    with pytest.raises(UsageError, match="method metric needs crops of two classes"):
        TrainingLoop(config, open_training_crops(config.data), folder=tmp_path)


@pytest.mark.parametrize("imbalance", ["none", "sampling", "weights"])
def test_a_transferred_network_writes_a_head_of_its_classes(
    imbalance: str, crops: Path, tmp_path: Path
) -> None:
    config = a_config(
        crops,
        method="transfer",
        steps=40,
        batch=16,
        views={"kind": "transfer"},
        schedule={"learning_rate": 5e-3},
        transfer={"layers": "all", "imbalance": imbalance},
    )
    result = TrainingLoop(config, open_training_crops(config.data), folder=tmp_path).run()
    head = load_head(tmp_path / "head.safetensors")
    embedder = load_embedder(EmbedderConfig(weights=f"file:{result.backbone}"), device="cpu")
    assert embedder is not None
    labelled = load_labels(crops)
    predicted = head.predict(embedder.embed(labelled.crops.pixels)).argmax(axis=1)
    assert head.classes == labelled.crops.classes
    assert (predicted == labelled.crops.label).mean() > 0.6
    assert np.mean(losses(tmp_path, "accuracy")[-8:]) > np.mean(losses(tmp_path, "accuracy")[:8])


def test_a_transfer_that_was_stopped_shows_every_crop_once_all_the_same(crops: Path) -> None:
    config = a_config(
        crops,
        method="transfer",
        batch=8,
        transfer={"layers": "all", "imbalance": "weights"},
        views={"kind": "transfer"},
    )
    table = open_training_crops(config.data)
    batches = make_batches(table, config, side_px=32, rank=0, world=1)
    rows = [batch.row for batch in batches.epoch(3)]
    assert sorted(np.concatenate(rows).tolist()) == list(range(len(table)))
    assert [b.row.tolist() for b in batches.epoch(3, start=2)] == [row.tolist() for row in rows[2:]]
    halves = [
        [b.row for b in make_batches(table, config, side_px=32, rank=rank, world=2).epoch(3)]
        for rank in (0, 1)
    ]
    assert not set(np.concatenate(halves[0]).tolist()) & set(np.concatenate(halves[1]).tolist())


def test_the_deep_half_learns_and_the_first_half_keeps_its_weights(crops: Path, tmp_path: Path) -> None:
    first = a_config(crops, steps=2)
    TrainingLoop(first, open_training_crops(first.data), folder=tmp_path / "a").run()
    start = f"file:{tmp_path / 'a' / 'backbone.safetensors'}"
    config = a_config(
        crops,
        method="transfer",
        arch=None,
        arch_kwargs={},
        init=start,
        batch=8,
        views={"kind": "transfer"},
        transfer={},
    )
    loop = TrainingLoop(config, open_training_crops(config.data), folder=tmp_path / "b")
    before = {name: tensor.clone() for name, tensor in loop._initial_weights.items()}
    loop.run()
    checkpoint = latest_checkpoint(tmp_path / "b" / "checkpoints")
    assert checkpoint is not None
    after = torch.load(checkpoint, weights_only=True)["method"]
    kept = [name for name, t in before.items() if torch.equal(after[f"backbone.{name}"], t)]
    assert {"conv1.weight", "layer1.0.conv1.weight", "bn1.running_mean"} <= set(kept)
    assert not [
        name for name in kept if name.startswith(("layer3", "layer4")) and name.endswith("conv1.weight")
    ]
    with pytest.raises(ValidationError, match=r"transfer\.layers=all"):
        a_config(crops, method="transfer", transfer={})


@pytest.mark.parametrize("name", ["inception_v4", "inception_resnet_v2", "pnasnet5large"])
@pytest.mark.slow
def test_the_papers_networks_have_a_deep_half(name: str) -> None:
    """`pytest -m slow tests/training/test_methods_supervised.py`: builds networks of up to 86 million parameters."""
    import timm

    from fossilray.training.initial_weights import count_stages, freeze_first

    network = timm.create_model(name, num_classes=0)
    freeze_first(network, count_stages(network) // 2)
    learning = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert 0 < learning < sum(p.numel() for p in network.parameters())


def test_classes_weigh_alike_and_crops_one_on_average() -> None:
    weights = class_weights([30, 10, 20]).numpy()
    assert weights * np.array([30, 10, 20]) == pytest.approx([20, 20, 20])
    assert (weights * np.array([30, 10, 20])).sum() / 60 == pytest.approx(1)


def test_step_decay_multiplies_by_its_factor_every_so_many_epochs() -> None:
    schedule = TrainConfig.model_validate({"method": "transfer"}).schedule
    rates = [learning_rate(schedule, progress=0.1, epoch=epoch) for epoch in (0.0, 0.49, 0.5, 1.0, 2.25)]
    assert rates == pytest.approx([2e-4, 2e-4, 2e-4 * 0.96, 2e-4 * 0.96**2, 2e-4 * 0.96**4])


def test_transfers_recipe_is_the_published_one_and_gives_way() -> None:
    published = TrainConfig.model_validate({"method": "transfer"})
    assert (published.init, published.arch, published.epochs, published.input_px) == (
        "timm:inception_resnet_v2", None, 40, 299
    )  # fmt: skip
    own = TrainConfig.model_validate(
        {"method": "transfer", "arch": "resnet18", "minutes": 1, "transfer": {"layers": "all"}}
    )
    assert (own.init, own.arch, own.epochs, own.minutes) == ("scratch", "resnet18", None, 1)


def test_views_of_transfer_show_the_crop_turned_shifted_and_flipped_within_their_ranges() -> None:
    still = TransferViews(32, turn_degrees=0, shift=0, shear_degrees=0, zoom=0, flip_share=1.0)
    pixels = torch.randint(
        0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    rng = torch.Generator().manual_seed(0)
    (view,) = still(pixels, torch.ones(3, 2), rng=rng)
    assert torch.allclose(view, pixels.flip(3).float() / 255, atol=1e-5)
    for random_crop, low, high in ((False, 0.8, 1.2), (True, 0.8 * 0.6**0.5, 1.2)):
        affine = TransferViews(32, random_crop=random_crop, shift=0)._draw(
            500, torch.Generator().manual_seed(3)
        )
        across = affine[:, :, 0].norm(dim=1)
        assert float(across.min()) >= low - 1e-6
        assert float(across.max()) <= high + 1e-6
        assert float(affine[:, :, 0].norm(dim=1).std()) > 0.05
