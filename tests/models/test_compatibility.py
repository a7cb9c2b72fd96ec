"""A head predicts only on vectors of the backbone that it was trained on."""

import numpy as np
import pytest

from fossilray.core.errors import UsageError
from fossilray.models.heads import Head, train_head
from fossilray.models.heads.compatibility import require_same_backbone
from fossilray.models.heads.head import BackboneReference


def head_of(name: str, sha256: str) -> Head:
    vectors = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    backbone = BackboneReference(name=name, sha256=sha256)
    return train_head(vectors, np.arange(20) % 2, ("Alnus", "Betula"), kind="logistic", backbone=backbone)


def test_equal_weights_under_another_name_are_accepted() -> None:
    head = head_of("vit", "ab" * 32)
    require_same_backbone(head.meta, BackboneReference(name="renamed", sha256="ab" * 32), subject="these")


def test_other_weights_are_refused_with_both_backbones_and_the_remedy() -> None:
    head = head_of("vit", "ab" * 32)
    with pytest.raises(UsageError) as refusal:
        require_same_backbone(
            head.meta, BackboneReference(name="vit", sha256="cd" * 32), subject="the vectors of runs/a"
        )
    assert str(refusal.value) == (
        "the head was trained on vectors of vit (abababababab), and the vectors of runs/a are of another backbone, "
        "vit (cdcdcdcdcdcd); give --embeddings of that backbone (`fossilray embed`), or a head that was trained on "
        "these vectors"
    )


def test_backbones_without_weights_are_compared_by_name() -> None:
    head = head_of("handcrafted/1", "")
    require_same_backbone(head.meta, BackboneReference(name="handcrafted/1", sha256=""), subject="these")
    with pytest.raises(UsageError, match=r"trained on vectors of handcrafted/1 \(no weights\)"):
        require_same_backbone(head.meta, BackboneReference(name="none", sha256=""), subject="these")
