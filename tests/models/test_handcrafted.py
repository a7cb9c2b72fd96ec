"""The handcrafted baseline, and backbones by their names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.labelled_folders import picture, write_folder

from fossilray.core.errors import UsageError
from fossilray.labels.embed import embed_labelled
from fossilray.labels.load import load_labels
from fossilray.models.backbones.handcrafted import handcrafted_features, oriented_gradients


def test_gradients_of_stripes_all_point_one_way() -> None:
    x = np.tile(np.sin(np.arange(64) / 2), (64, 1))
    upright = oriented_gradients(x).reshape(7, 7, 4, 9)
    lying = oriented_gradients(x.T.copy()).reshape(7, 7, 4, 9)
    # Directions run from 0 to 180 degrees in nine bins, so 0 lies between the first and the last, 90 in the fifth.
    assert upright[..., [0, 8]].sum() > 0.99 * upright.sum()
    assert lying[..., 4].sum() > 0.99 * lying.sum()
    assert np.allclose(np.linalg.norm(upright, axis=(2, 3)), 1)
    assert not oriented_gradients(np.zeros((64, 64))).any()


def test_light_and_size_matter_little_and_proportions_count() -> None:
    crop = picture(3, (120, 120))
    one = np.ones((3, 2), np.float32)
    dim = (crop * 0.8).astype(np.uint8)
    plain, again, other = handcrafted_features(np.stack([crop, dim, picture(4, (120, 120))]), one)
    assert plain.shape == (1815,)
    assert np.linalg.norm(plain - again) < 0.3 * np.linalg.norm(plain - other)
    (long,) = handcrafted_features(crop[None], np.array([[1.0, 0.3]], np.float32))
    assert np.linalg.norm(long - plain) > 0.1
    assert handcrafted_features(np.full((1, 50, 50, 3), 255, np.uint8), one[:1]).shape == (1, 1815)


def test_backbones_are_found_by_their_names(tmp_path: Path) -> None:
    labelled = load_labels(write_folder(tmp_path, {"a": 2, "b": 1}))
    by_hand = embed_labelled(labelled, "handcrafted")
    assert by_hand.vectors.shape == (3, 1815)
    shipped = embed_labelled(labelled, "bundled")
    blank = embed_labelled(labelled, "random:bundled")
    assert shipped.vectors.shape == blank.vectors.shape
    assert len({one.backbone.sha256 for one in (by_hand, shipped, blank)}) == 3
    assert blank.backbone == embed_labelled(labelled, "random:bundled").backbone
    assert blank.backbone != embed_labelled(labelled, "random:bundled", seed=1).backbone
    with pytest.raises(UsageError, match="neither a file nor one of: bundled"):
        embed_labelled(labelled, "bundeld")
    with pytest.raises(UsageError, match="no vectors of a run"):
        embed_labelled(labelled, "run")


def test_a_runs_own_vectors_are_used_for_its_backbone(tmp_path: Path) -> None:
    labelled = load_labels(write_folder(tmp_path, {"a": 2, "b": 1}))
    shipped = embed_labelled(labelled, "bundled")
    stored = np.ones((3, 4), np.float16)
    own = replace(labelled, vectors=stored, backbone_sha256=shipped.backbone.sha256)
    assert embed_labelled(own, "bundled").vectors is stored
    assert embed_labelled(own, "run").backbone.sha256 == shipped.backbone.sha256
    assert embed_labelled(replace(own, backbone_sha256="ef" * 32), "bundled").vectors.shape[1] > 4
