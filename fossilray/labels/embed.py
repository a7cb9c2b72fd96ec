"""Embeddings of labelled crops by a named backbone: bundled, file, timm hub, random weights, or handcrafted."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config import EmbedderConfig
from fossilray.core.errors import UsageError
from fossilray.labels.load import LabelledSet
from fossilray.models.backbones.architectures import Architecture, build_backbone_network
from fossilray.models.backbones.checkpoints import read_backbone_checkpoint
from fossilray.models.backbones.embedder import IMAGENET_MEAN, IMAGENET_STD, BackboneEmbedder, Preprocessing
from fossilray.models.backbones.handcrafted import handcrafted_features
from fossilray.models.backbones.load import (
    embedder_digest,
    load_network,
    weights_setting_of,
)
from fossilray.models.heads.head import BackboneReference
from fossilray.models.weights_file import bundled_weights

if TYPE_CHECKING:
    import torch

HANDCRAFTED_VERSION = "handcrafted/1"


@dataclass(frozen=True)
class EmbeddedCrops:
    """Vectors (n, d) of labelled crops, and the backbone that made them."""

    vectors: NDArray[np.floating]
    backbone: BackboneReference


def embed_labelled(
    labelled: LabelledSet,
    backbone: str,
    *,
    device: torch.device | str = "cpu",
    input_px: int | None = None,
    seed: int = 0,
) -> EmbeddedCrops:
    """Embed labelled crops with a backbone; BACKBONE_HELP lists the names.

    If the run was made with this backbone, its stored vectors are returned, so that a head is trained on exactly what
    the run holds. seed: seeds the weights of a random network.

    Raises:
        UsageError: the backbone is `run`, and there are no vectors of a run.
        WeightsError: the weights cannot be loaded.
    """
    if backbone == "run":
        if labelled.vectors is None or labelled.backbone_sha256 is None:
            raise UsageError(
                "there are no vectors of a run: give --run with a table of slide_id, object_id and genus, of a run "
                "that was made with a backbone, or another --backbone"
            )
        return EmbeddedCrops(labelled.vectors, BackboneReference(name="run", sha256=labelled.backbone_sha256))
    if backbone == "handcrafted":
        digest = hashlib.sha256(HANDCRAFTED_VERSION.encode()).hexdigest()
        vectors = handcrafted_features(labelled.crops.pixels, labelled.crops.shape)
        return EmbeddedCrops(vectors, BackboneReference(name=HANDCRAFTED_VERSION, sha256=digest))
    return _by_network(labelled, backbone, device=device, input_px=input_px, seed=seed)


def _by_network(
    labelled: LabelledSet, backbone: str, *, device: torch.device | str, input_px: int | None, seed: int
) -> EmbeddedCrops:
    if backbone.startswith("random:"):
        network, preprocessing = _random_network(backbone.removeprefix("random:"), input_px, seed=seed)
        name, digest = f"{backbone} seed {seed}", _digest_of(network)
    else:
        config = EmbedderConfig(weights=weights_setting_of(backbone), input_px=input_px)
        (digest,) = embedder_digest(config).values()
        if labelled.vectors is not None and labelled.backbone_sha256 == digest and input_px is None:
            return EmbeddedCrops(labelled.vectors, BackboneReference(name=backbone, sha256=digest))
        network, name, preprocessing = load_network(config)
    embedder = BackboneEmbedder(
        copy.deepcopy(network), name=name, preprocessing=preprocessing, device=device, batch=64
    )
    return EmbeddedCrops(embedder.embed(labelled.crops.pixels), BackboneReference(name=name, sha256=digest))


def _random_network(name: str, input_px: int | None, *, seed: int) -> tuple[torch.nn.Module, Preprocessing]:
    import torch

    architecture = _architecture(name, input_px)
    # timm draws initial weights from the global generator only, which other threads may use.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_backbone_network(architecture)
    return network, Preprocessing(architecture.input_px, IMAGENET_MEAN, IMAGENET_STD, "bicubic")


def _architecture(name: str, input_px: int | None) -> Architecture:
    """Return the architecture of a timm network or of the bundled backbone, for this input size or its native one."""
    import timm

    if name == "bundled":
        _, meta = read_backbone_checkpoint(bundled_weights("backbone"))
        assert meta is not None, "the bundled backbone has a description"
        return Architecture(meta.architecture, input_px or meta.input_px, dict(meta.kwargs))
    recorded = timm.get_pretrained_cfg(name) if timm.is_model(name.partition(".")[0]) else None
    native_px = recorded.input_size[-1] if recorded is not None else 224
    if input_px is None or not name.startswith(("vit_", "deit_", "eva", "beit")):
        return Architecture(name, input_px or native_px)
    return Architecture(name, input_px, {"img_size": input_px})


def _digest_of(network: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
