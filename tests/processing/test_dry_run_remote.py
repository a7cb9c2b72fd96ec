"""A dry run over slides in S3 reads a few kB of each and stages nothing."""

# ruff: noqa: F811 (fixtures are imported by the name that tests use)

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.remote_slides import counted, put, upload
from support.rendered_text import text_of
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)
from support.slides_on_disk import discs

from fossilray.core.config import RunConfig, SlidesConfig, StoreConfig, TilingConfig
from fossilray.processing.planning.dry_run import plan_run, render_plan
from fossilray.synthetic.writers.mirax import MiraxOptions, write_mirax
from fossilray.synthetic.writers.pixels import ArrayPixels
from fossilray.synthetic.writers.tiff import TiffOptions, write_pyramidal_tiff

S3 = tuple[str, StoreConfig]
OPTIONS = MiraxOptions(photo_px=512, divisions_per_side=2, margin_photos=4, levels=5, data_files=2)


class HalfScanned(ArrayPixels):
    def is_scanned(self, x: int, y: int, width: int, height: int) -> bool:
        return x + y < self.width


def configured(config: StoreConfig, tmp_path: Path, **slides: object) -> RunConfig:
    return RunConfig(
        store=config,
        slides=SlidesConfig(scratch=str(tmp_path / "scratch"), **slides),
        # Every tile that was scanned counts, here and there.
        tiling=TilingConfig(tile_px=512, blank_contrast=0),
    )


def test_plan_of_remote_slides_is_near_that_of_the_same_slides_on_a_disk(
    tmp_path: Path, s3_run: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, config = s3_run
    slides = tmp_path / "slides"
    slides.mkdir()
    write_mirax(slides / "half.mrxs", HalfScanned(image=discs(5000, 40)), OPTIONS)
    write_mirax(slides / "whole.mrxs", ArrayPixels(image=discs(3000)), replace(OPTIONS, seed=1))
    write_pyramidal_tiff(slides / "plain.tif", ArrayPixels(image=discs(3000)), TiffOptions())
    upload(slides, f"{url}/slides", config)
    chosen = configured(config, tmp_path)
    here = plan_run(str(slides), str(tmp_path / "run"), chosen)
    with counted(monkeypatch) as traffic:
        there = plan_run(f"{url}/slides", str(tmp_path / "run"), chosen)
    assert not here.refused
    assert not there.refused
    assert traffic.bytes < 3 * 64_000
    assert traffic.requests < 3 * 16
    assert not (tmp_path / "scratch").exists()
    for near, far in zip(here.slides, there.slides, strict=True):
        assert far.tiles is not None
        assert near.tiles is not None
        # A cell of the index is 4 stored tiles wide, two tiles of this plan.
        assert near.tiles <= far.tiles <= 2.2 * near.tiles
        assert (near.fetched_bytes, far.row.width) == (0, near.row.width)
        files = [slides / far.row.path.rpartition("/")[2], *(slides / far.row.slide_id).glob("*")]
        assert far.fetched_bytes == sum(file.stat().st_size for file in files)
    half, plain, whole = there.slides
    assert half.blank is not None
    assert half.tiles is not None
    assert 0.2 < half.blank / half.tiles < 0.6
    assert plain.blank is None
    assert whole.covered_mm2 >= here.slides[2].covered_mm2
    text = text_of(render_plan(there))
    assert "to fetch from the object store" in text
    assert "?" in text


def test_slides_without_metadata_or_too_large_to_stage_are_reported(tmp_path: Path, s3_run: S3) -> None:
    url, config = s3_run
    slides = tmp_path / "slides"
    slides.mkdir()
    write_mirax(slides / "large.mrxs", ArrayPixels(image=discs(2000, 40)), OPTIONS)
    upload(slides, f"{url}/slides", config)
    put(f"{url}/slides/a.ndpi", b"II*\0" + bytes(60), config)
    put(f"{url}/slides/b.vms", b"[Virtual Microscope Specimen]", config)
    plan = plan_run(f"{url}/slides", str(tmp_path / "run"), configured(config, tmp_path, scratch_gb=1e-5))
    assert [(slide.row.slide_id, slide.tiles, slide.fetched_bytes) for slide in plan.slides] == [
        ("a.ndpi", None, 64)
    ]
    reasons = {refused.slide_id: refused.reason for refused in plan.refused}
    assert "slides.scratch_gb is 1e-05" in reasons["large"]
    assert "several files" in reasons["b.vms"]
    assert "1 slides have an unknown size before they are fetched" in text_of(render_plan(plan))
