"""What a GPU must agree with the CPU on: python -m pytest -m gpu."""

from __future__ import annotations

import numpy as np
import pytest
from support.slides_on_disk import discs

from fossilray.core.config import DetectorConfig, EmbedderConfig
from fossilray.models.backbones.load import load_embedder
from fossilray.models.detectors.load import load_detector

pytestmark = pytest.mark.gpu


def test_the_detector_finds_the_same_boxes_on_both() -> None:
    tiles = np.stack([discs(640, 5), discs(640, 9)])
    here, there = (
        load_detector(DetectorConfig(), device=device).detect(tiles, um_per_px=1.0)
        for device in ("cpu", "cuda")
    )
    for cpu, gpu in zip(here, there, strict=True):
        assert len(cpu) == len(gpu)
        order = np.lexsort(np.round(cpu.xyxy).T), np.lexsort(np.round(gpu.xyxy).T)
        np.testing.assert_allclose(cpu.xyxy[order[0]], gpu.xyxy[order[1]], atol=1.0)


def test_vectors_agree_within_half_precision() -> None:
    crops = np.stack([discs(224, number)[:224, :224] for number in range(1, 5)])
    here, there = (load_embedder(EmbedderConfig(), device=device) for device in ("cpu", "cuda"))
    assert here is not None
    assert there is not None
    a, b = here.embed(crops).astype(np.float32), there.embed(crops).astype(np.float32)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() > 0.999
