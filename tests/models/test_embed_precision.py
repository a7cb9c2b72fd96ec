"""Backbones made fast: in fewer bits, with norms folded, compiled, from several threads; their vectors stay."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from support.slides_on_disk import discs

from fossilray.core.config import EmbedderConfig
from fossilray.core.errors import ConfigError
from fossilray.models.backbones.embedder import IMAGENET_MEAN, IMAGENET_STD, BackboneEmbedder, Preprocessing
from fossilray.models.backbones.load import load_embedder

SIDE_PX = 96


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As a worker has it; networks this small only wait for a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def crops() -> NDArray[np.uint8]:
    """Grainy discs, large and small."""
    return np.stack([discs(SIDE_PX * 4, number)[::4, ::4] for number in range(1, 9)])


def _embedder(network: torch.nn.Module, **options: Any) -> BackboneEmbedder:
    return BackboneEmbedder(
        copy.deepcopy(network),
        name="tried",
        preprocessing=Preprocessing(SIDE_PX, IMAGENET_MEAN, IMAGENET_STD, "bicubic"),
        device="cpu",
        **{"batch": 64} | options,
    )


def _network(name: str, **options: Any) -> torch.nn.Module:
    """With random weights as large as trained ones, and norms that have seen images."""
    torch.manual_seed(11)
    network: torch.nn.Module = timm.create_model(name, num_classes=0, **options)
    for module in network.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=module.in_features**-0.5)
    with torch.no_grad():
        network.train()(torch.randn(8, 3, SIDE_PX, SIDE_PX))
    return network.eval()


class _Small(torch.nn.Module):
    """Colours and edges of an image: compiled in seconds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(12)
        self.edges = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.edges(seen))).mean((2, 3))


def _cosines(one: NDArray[np.float16], other: NDArray[np.float16]) -> NDArray[np.float64]:
    a, b = one.astype(np.float64), other.astype(np.float64)
    similarity: NDArray[np.float64] = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return similarity


def test_bundled_backbone_gives_in_any_precision_what_it_gives_in_float32(crops: NDArray[np.uint8]) -> None:
    wide, auto = (load_embedder(EmbedderConfig(), device="cpu", precision=p) for p in ("float32", "auto"))
    assert wide is not None
    assert auto is not None
    # Its last layer divides by how little vectors vary, so noise, which no fossil looks like, differs most.
    assert _cosines(wide.embed(crops), auto.embed(crops)).min() > 0.995


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_small_patch16_224", {"img_size": SIDE_PX}),
        ("resnet18", {}),
        ("legacy_xception", {}),
    ],
)
def test_half_precision_turns_no_vector_by_more_than_a_thousandth(
    name: str, options: dict[str, Any], crops: NDArray[np.uint8]
) -> None:
    network = _network(name, **options)
    wide, half = (_embedder(network, dtype=dtype).embed(crops) for dtype in (None, torch.bfloat16))
    assert _cosines(wide, half).min() > 0.999


def test_what_overflows_float16_is_reckoned_in_float32(crops: NDArray[np.uint8]) -> None:
    network = torch.nn.Sequential(
        torch.nn.AvgPool2d(SIDE_PX), torch.nn.Flatten(), torch.nn.Linear(3, 8), torch.nn.Linear(8, 4)
    )
    network[2].weight.data *= 1e5
    network[3].weight.data *= 1e-5
    wide, half = (_embedder(network, dtype=dtype).embed(crops) for dtype in (None, torch.float16))
    assert (wide == half).all()
    assert wide.any()


def test_a_convolution_that_is_used_twice_keeps_its_norms(crops: NDArray[np.uint8]) -> None:
    class Shared(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = torch.nn.Conv2d(3, 3, 1)
            self.first, self.second = torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)

        def forward(self, seen: torch.Tensor) -> torch.Tensor:
            return self.second(self.shared(self.first(self.shared(seen)))).mean((2, 3))

    torch.manual_seed(13)
    network = Shared().eval()
    torch.nn.init.uniform_(network.first.running_mean, 1, 2)  # type: ignore[arg-type]
    torch.nn.init.uniform_(network.second.running_var, 3, 4)  # type: ignore[arg-type]
    shown = Preprocessing(SIDE_PX, IMAGENET_MEAN, IMAGENET_STD, "bicubic").apply(torch.from_numpy(crops))
    with torch.no_grad():
        expected = network(shown).numpy()
    assert _embedder(network).embed(crops) == pytest.approx(expected, abs=5e-3)


def test_threads_that_embed_at_once_get_what_each_gets_alone(crops: NDArray[np.uint8]) -> None:
    embedder = load_embedder(EmbedderConfig(batch=4), device="cpu")
    assert embedder is not None
    orders = [np.roll(crops, shift, axis=0) for shift in range(12)]
    alone = [embedder.embed(order) for order in orders]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(embedder.embed, orders))
    assert all((a == b).all() for a, b in zip(alone, together, strict=True))


def test_a_batch_larger_than_a_forward_pass_is_embedded_whole() -> None:
    large = np.stack([discs(448, number) for number in (1, 2, 3, 4, 5)])
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    embedder = BackboneEmbedder(
        network,
        name="mean",
        preprocessing=Preprocessing(448, (0, 0, 0), (1, 1, 1), "bicubic"),
        device="cpu",
        batch=64,
    )
    assert embedder.embed(large) == pytest.approx(large.mean((1, 2)) / 255, abs=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler"
)
def test_a_compiled_network_gives_the_same_vectors_for_any_number_of_crops(crops: NDArray[np.uint8]) -> None:
    plain, compiled = _embedder(_Small(), batch=3), _embedder(_Small(), batch=3, compiled=True)
    for count in (0, 1, 3, 8):
        assert compiled.embed(crops[:count]) == pytest.approx(plain.embed(crops[:count]), abs=1e-3)


def test_without_a_compiler_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("absent-compiler",))
    monkeypatch.setattr(config, "force_disable_caches", True)
    torch._dynamo.reset()
    with pytest.raises(ConfigError, match="C\\+\\+ compiler"):
        _embedder(_Small(), compiled=True)
