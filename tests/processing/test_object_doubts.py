"""Checks of slides by their objects, and refusal by strict codes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from support.slides_on_disk import write_slide

from fossilray.core.config import CropsConfig, load_config
from fossilray.core.errors import ConfigError
from fossilray.core.images import resize_image
from fossilray.core.records import CatalogRow, Doubt, Outcome, WorkItem
from fossilray.core.types import Boxes, Level, Rect, SlideInfo
from fossilray.processing.crops.measures import Measures, measure_crops
from fossilray.processing.doubts import check_objects, longest_um_quartiles
from fossilray.processing.worker import SlideWorker
from fossilray.store import RunStore
from fossilray.store.query.connection import query
from fossilray.store.run.run_record import describe_run
from fossilray.synthetic.composites import Composite, compose_field

SIDE_PX = 8000
CLEAR = (226, 222, 219)


def slide_info(*, mpp: float = 0.25, side_px: int = SIDE_PX) -> SlideInfo:
    whole = Rect(0, 0, side_px, side_px)
    return SlideInfo(
        "s.mrxs", "mirax", side_px, side_px, mpp, (Level(side_px, side_px, 1.0),), whole, (255, 255, 255)
    )


def boxes(*corners: tuple[float, float, float, float]) -> Boxes:
    return Boxes(np.array(corners, np.float64).reshape(-1, 4), np.ones(len(corners), np.float32))


def scattered(count: int, *, side_px: int = 200) -> list[tuple[float, float, float, float]]:
    """Boxes inside the slide, in the same places every time."""
    low = np.random.default_rng(count).integers(10, SIDE_PX - side_px - 10, (count, 2))
    return [(float(x), float(y), float(x + side_px), float(y + side_px)) for x, y in low]


def check(objects: Boxes, *, sharpness: float = 60.0, info: SlideInfo | None = None) -> dict[str, Doubt]:
    count = len(objects)
    measures = Measures(
        np.zeros(count, np.float32),
        np.full(count, sharpness, np.float32),
        np.zeros((count, 3), np.uint8),
        np.zeros(count, np.bool_),
        np.zeros((count, 0), np.float32),
    )
    doubts = check_objects(info or slide_info(), objects, measures, CropsConfig())
    return {doubt.code: doubt for doubt in doubts}


def test_scattered_sharp_objects_raise_no_finding() -> None:
    assert check(boxes(*scattered(60))) == {}
    assert check(boxes()) == {}
    assert longest_um_quartiles(slide_info(), boxes()) == ()


def test_box_as_large_as_the_slide_is_a_giant_object() -> None:
    found = check(boxes(*scattered(5), (100, 200, 7900, 7600)))
    assert set(found) == {"giant-object"}
    assert found["giant-object"].value == 1950
    assert "object 5 has 1950 x 1850 um on a scanned area of 2000 x 2000" in found["giant-object"].sentence


def test_long_fibre_and_a_specimen_that_fills_a_small_field_are_no_giants() -> None:
    assert check(boxes((100, 100, 4000, 180))) == {}
    assert check(boxes((100, 100, 700, 700)), info=slide_info(side_px=1024)) == {}


def test_objects_along_the_rim_are_counted_against_chance() -> None:
    at_rim = [(0.0, y, 200.0, y + 200) for y in np.linspace(0, 7000, 25)]
    found = check(boxes(*scattered(75), *at_rim))
    assert set(found) == {"objects-at-rim"}
    assert found["objects-at-rim"].value == pytest.approx(0.25)
    assert "25% of the objects (25 of 100) touch the rim" in found["objects-at-rim"].sentence
    # By chance 9.5 of 100 lie there: 1 - (7800 / 8200)^2.
    assert check(boxes(*scattered(90), *at_rim[:10])) == {}


def test_quartiles_are_of_the_longest_side_in_micrometres() -> None:
    sizes = [(0, 0, 40, 10), (0, 0, 80, 10), (0, 0, 10, 120), (0, 0, 160, 10), (0, 0, 10, 200)]
    assert longest_um_quartiles(slide_info(), boxes(*sizes)) == (20.0, 30.0, 40.0)


@pytest.fixture(scope="module")
def fields() -> list[Composite]:
    """Painted fields with 30 objects or more that are large enough to show focus."""
    rng = np.random.default_rng(5)
    painted: list[Composite] = []
    while sum(len(large_boxes(field)) for field in painted) < 30:
        painted.append(compose_field(rng, size_px=1536, um_per_px=0.25))
    return painted


def large_boxes(field: Composite) -> list[list[int]]:
    return [
        [x_min, y_min, x_max, y_max]
        for x_min, y_min, x_max, y_max in field.boxes.astype(int).tolist()
        if min(x_max - x_min, y_max - y_min) >= 60
    ]


@pytest.mark.parametrize(("blur_um", "is_blurred"), [(0.0, False), (2.0, True), (4.0, True)])
def test_defocus_of_a_field_is_found(fields: list[Composite], blur_um: float, is_blurred: bool) -> None:
    rng = np.random.default_rng(5)
    corners, crops = [], []
    for field in fields:
        image = field.image
        if blur_um:
            # Focus is lost before the camera adds its noise.
            image = cv2.GaussianBlur(image, (0, 0), blur_um / 0.25)
            image = np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
        encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
        for x_min, y_min, x_max, y_max in large_boxes(field):
            box = (x_min, y_min, x_max, y_max)
            crops.append(resize_image(image, box, size_px=224, content=(0, 0, 224, 224), pad_rgb=CLEAR))
            corners.append(box)
    measures = measure_crops(np.stack(crops), CLEAR, np.zeros(len(crops), np.bool_))
    codes = {
        doubt.code: doubt for doubt in check_objects(slide_info(), boxes(*corners), measures, CropsConfig())
    }
    assert ("out-of-focus" in codes) is is_blurred


def test_crops_too_small_to_show_focus_are_left_out() -> None:
    assert check(boxes(*scattered(60, side_px=40)), sharpness=0.1) == {}
    found = check(boxes(*scattered(60, side_px=200)), sharpness=0.1)
    assert found["out-of-focus"].value == 1.0
    assert "100% of 60 crops are out of focus" in found["out-of-focus"].sentence


def process(path: Path, folder: Path, *settings: str) -> tuple[RunStore, Outcome]:
    config = load_config(None, ["detector.kind=classical", "embedder.weights=none", *settings])
    store = RunStore.open(str(folder / "run"))
    store.create_or_check(describe_run(config, {}))
    worker = SlideWorker(str(folder / "run"), config)
    worker.prepare()
    return store, worker.process(WorkItem.of_slide(CatalogRow(path.stem, str(path))))


@pytest.fixture(scope="module")
def fluorescence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide whose Slidedat.ini states fluorescence."""
    path = tmp_path_factory.mktemp("slides") / "s.mrxs"
    write_slide(path)
    ini = path.parent / "s" / "Slidedat.ini"
    ini.write_bytes(ini.read_bytes().replace(b"_BRIGHTFIELD", b"_FLUORESCENCE"))
    return path


def test_findings_before_and_after_processing_are_on_the_slides_row(
    tmp_path: Path, fluorescence: Path
) -> None:
    store, outcome = process(fluorescence, tmp_path)
    assert outcome.failure is None
    (summary,) = store.summaries()
    assert [doubt.code for doubt in summary.doubts or ()] == ["slide-type"]
    assert summary.longest_um_quartiles is not None
    assert summary.longest_um_quartiles[1] == pytest.approx(29, abs=3)
    (recorded,) = query(store, "SELECT doubts FROM slides")["doubts"].to_pylist()
    assert [doubt["code"] for doubt in recorded] == ["slide-type"]


def test_strict_code_refuses_the_slide_before_detection(tmp_path: Path, fluorescence: Path) -> None:
    store, outcome = process(fluorescence, tmp_path, "slides.strict_doubts=[slide-type]")
    failure = outcome.failure
    assert failure is not None
    assert (failure.error, failure.stage, failure.transient, failure.quarantined) == (
        "DoubtfulSlide",
        "open",
        False,
        True,
    )
    assert "SLIDE_TYPE_FLUORESCENCE" in failure.message
    assert store.summaries() == []


def test_strict_code_of_the_objects_refuses_the_slide_before_the_commit(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    image = np.full((2560, 2560, 3), CLEAR, np.uint8)
    cv2.circle(image, (1280, 1280), 1100, (120, 80, 40), 24)
    tifffile.imwrite(
        path, image, tile=(256, 256), photometric="rgb", resolution=(40_000,) * 2, resolutionunit="centimeter"
    )
    store, outcome = process(path, tmp_path / "marked")
    assert outcome.failure is None
    (summary,) = store.summaries()
    (giant,) = summary.doubts or ()
    assert giant.code == "giant-object"
    assert giant.value is not None
    assert 550 <= giant.value <= 640
    store, outcome = process(path, tmp_path / "refused", "slides.strict_doubts=[giant-object]")
    assert outcome.failure is not None
    assert (outcome.failure.error, outcome.failure.stage) == ("DoubtfulSlide", "write")
    assert store.summaries() == []
    assert not list((tmp_path / "refused").rglob("*.parquet"))


def test_codes_that_compare_slides_cannot_refuse_one() -> None:
    with pytest.raises(ConfigError, match="density-unusual compares slides that are committed"):
        load_config(None, ["slides.strict_doubts=[density-unusual]"])
    with pytest.raises(ConfigError, match="'mpp' is not a code of a doubt; known are mpp-implausible"):
        load_config(None, ["slides.strict_doubts=[mpp]"])


def test_strict_codes_do_not_change_a_runs_digest() -> None:
    strict = load_config(None, ["slides.strict_doubts=[slide-type]"])
    assert strict.what_changes_results() == load_config(None, []).what_changes_results()
