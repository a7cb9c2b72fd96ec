"""Identification of images: cut, named with shares or called novel, compared with specimens, and refused in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow
from support.cli_runner import invoke, run_command
from support.drawn_photographs import KINDS, NOVEL, bomb, draw_field, draw_mark
from support.identified_marks import Marks, make_marks
from support.indexed_runs import a_vector_run, index_runs

from fossilray.analysis.identify import cutting
from fossilray.analysis.identify.cutting import ObjectCutter
from fossilray.analysis.identify.identifier import NEAREST_SPECIMENS, Identifier
from fossilray.analysis.identify.opening import open_specimens
from fossilray.analysis.identify.photograph import Photograph, read_photograph
from fossilray.analysis.identify.result import IdentifiedObject
from fossilray.analysis.identify.specimens_of_run import RunSpecimens
from fossilray.analysis.search.search import SearchIndex
from fossilray.core.boxes import box_iou
from fossilray.core.errors import FossilrayError, NotASlide, TooLarge, UsageError
from fossilray.store import RunStore

ON_FIELD = ["ring", "disc", "triangle", "ring", NOVEL, "triangle", NOVEL]


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Marks:
    return make_marks(tmp_path_factory.mktemp("marks"))


@pytest.fixture(scope="module")
def labels(marks: Marks) -> Path:
    return marks.labels


@pytest.fixture(scope="module")
def head(marks: Marks) -> Path:
    return marks.head


@pytest.fixture(scope="module")
def run(marks: Marks, tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return marks.write_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def names(run: RunStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A label set with the names of four objects of the run; two annotators differ on one."""
    folder = tmp_path_factory.mktemp("names")
    for who, rows in {
        "ada": "a,0,disc\na,1,disc\nb,37,triangle\nb,36,triangle\n",
        "ole": "a,1,ring\n",
    }.items():
        (folder / f"{who}.csv").write_text(f"slide_id,object_id,genus\n{rows}")
        run_command(
            "labels", "import", folder / f"{who}.csv", "--run", run.url, "--to", folder / "set", "--annotator", who
        )  # fmt: skip
    return folder / "set"


@pytest.fixture(scope="module")
def identifier(labels: Path, head: Path) -> Identifier:
    return Identifier(head=head, specimens=open_specimens(labels=labels).specimens, novelty_p=0.02)


def photograph(pixels: NDArray[np.uint8], *, mpp: float | None = None) -> Photograph:
    return Photograph("drawn.png", pixels, mpp, None if mpp is None else "given")


def in_set(found: IdentifiedObject) -> set[str]:
    return {share.name for share in found.taxa if share.in_set}


def test_a_tight_crop_is_named_with_its_share_and_like_specimens(identifier: Identifier) -> None:
    for kind in KINDS:
        result = identifier.identify(photograph(draw_mark(kind, np.random.default_rng(5)), mpp=0.5)).result
        assert result.view == "crop"
        (found,) = result.objects
        assert (found.taxa[0].name, in_set(found), found.is_novel) == (kind, {kind}, False)
        assert found.taxa[0].share >= 0.9
        assert sum(share.share for share in found.taxa) == pytest.approx(1, abs=0.01)
        assert found.sentence.startswith(f"{kind} (")
        assert found.box == (0, 0, result.width, result.height)
        assert found.width_um == result.width * 0.5
        assert {near.name for near in found.nearest_labelled[:5]} == {kind}
        assert len(found.nearest_labelled) == NEAREST_SPECIMENS
        assert found.nearest_unlabelled == ()


def test_a_kind_that_is_not_labelled_is_like_nothing_labelled(identifier: Identifier) -> None:
    (found,) = identifier.identify(photograph(draw_mark(NOVEL, np.random.default_rng(5)))).result.objects
    assert found.is_novel
    assert found.novelty_p == pytest.approx(1 / 79, abs=1e-5)
    assert found.sentence.startswith("Like nothing labelled, p = 0.013")


@pytest.mark.parametrize("mpp", [0.5, None])
def test_a_field_of_view_is_cut_into_its_objects(identifier: Identifier, mpp: float | None) -> None:
    pixels, boxes = draw_field(ON_FIELD, np.random.default_rng(3))
    identified = identifier.identify(photograph(pixels, mpp=mpp))
    result = identified.result
    assert (result.view, result.found, len(identified.crops)) == ("field", len(boxes), len(boxes))
    for kind, box in zip(ON_FIELD, boxes, strict=True):
        overlaps = [box_iou(np.array(box), np.array(found.box)) for found in result.objects]
        found = result.objects[int(np.argmax(overlaps))]
        assert max(overlaps) > 0.7
        assert found.is_novel or kind != NOVEL
        assert found.taxa[0].name == kind or kind == NOVEL
        assert (found.width_um is None) == (mpp is None)
        if found.width_um is not None:
            assert found.width_um == pytest.approx((box[2] - box[0]) * 0.5, rel=0.2)
    assert sum(found.is_novel for found in result.objects) <= ON_FIELD.count(NOVEL) + 1
    guessed = [note for note in result.notes if "a guess" in note]
    assert bool(guessed) == (mpp is None)
    assert any("um per px is unknown" in note for note in result.notes) == (mpp is None)


def test_view_can_be_given(identifier: Identifier, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, boxes = draw_field(ON_FIELD, np.random.default_rng(3))
    (found,) = identifier.identify(photograph(pixels), view="crop").result.objects
    assert found.detector_score is None
    blank = identifier.identify(photograph(np.full((200, 300, 3), 225, np.uint8))).result
    assert (blank.view, blank.objects) == ("field", ())
    assert "found no object" in blank.notes[1]
    monkeypatch.setattr(cutting, "MOST_IDENTIFIED", 3)
    result = identifier.identify(photograph(pixels), view="field").result
    assert (len(result.objects), result.found) == (3, len(boxes))
    assert any("the 3 with the highest scores" in note for note in result.notes)


def test_without_a_head_nothing_is_named() -> None:
    result = Identifier().identify(photograph(draw_mark("ring", np.random.default_rng(5)))).result
    (found,) = result.objects
    assert (found.taxa, found.set_size, found.novelty_p, found.nearest_labelled) == ((), None, None, ())
    assert found.sentence.startswith("No head is given")
    assert result.head is None
    assert [note.split(":")[0] for note in result.notes[1:]][-1] == "Nothing is compared"


def test_specimens_of_a_run_are_given_with_well_depth_and_annotator(run: RunStore, names: Path) -> None:
    opened = open_specimens(run=run, labels=names)
    identifier = Identifier(specimens=opened.specimens, crops=opened.crops)
    result = identifier.identify(photograph(draw_mark("triangle", np.random.default_rng(5)))).result
    assert any(note.startswith("Compared with all 76 objects with pixels of") for note in result.notes)
    (found,) = result.objects
    labelled = {(near.slide_id, near.object_id): near for near in found.nearest_labelled}
    assert set(labelled) == {("a", 0), ("a", 1), ("b", 36)}  # the last object of b has no pixels
    first = found.nearest_labelled[0]
    assert (first.name, first.who, first.well, first.attempt) == (
        "triangle",
        "ada",
        "W-2",
        next(row.attempt for row in run.summaries() if row.slide_id == "b"),
    )
    assert (labelled["a", 1].name, labelled["a", 1].who) == ("ring / disc", "ole, ada")
    assert len(found.nearest_unlabelled) == NEAREST_SPECIMENS
    near = [(near.slide_id, near.object_id) for near in found.nearest_unlabelled]
    assert not set(near) & set(labelled)
    # The triangles are the last 26 objects of slide b.
    assert all(slide_id == "b" and (object_id or 0) >= 12 for slide_id, object_id in near[:10])


def test_an_index_gives_the_specimens_that_exact_comparison_gives(
    run: RunStore, names: Path, tmp_path: Path
) -> None:
    index = SearchIndex.open(index_runs([run.url], tmp_path / "index").url)
    images = [photograph(draw_mark(kind, np.random.default_rng(5))) for kind in (*KINDS, NOVEL)]
    results = []
    for opened in (open_specimens(run=run, labels=names), open_specimens(run=run, labels=names, index=index)):
        identifier = Identifier(specimens=opened.specimens, crops=opened.crops)
        results.append([identifier.identify(image).result.objects[0] for image in images])
    for exact, searched in zip(*results, strict=True):
        for of_index, of_run in zip(searched.nearest_labelled, exact.nearest_labelled, strict=True):
            assert of_index.model_dump() == {**of_run.model_dump(), "similarity": of_index.similarity}
            assert of_index.similarity == pytest.approx(of_run.similarity, abs=2e-3)
        both = {(near.slide_id, near.object_id) for near in exact.nearest_unlabelled[:10]}
        assert len(both & {(near.slide_id, near.object_id) for near in searched.nearest_unlabelled[:12]}) >= 8


def test_of_a_large_run_some_slides_and_all_labelled_objects_are_compared(run: RunStore, names: Path) -> None:
    opened = open_specimens(run=run, labels=names)
    (whole,) = opened.specimens
    assert isinstance(whole, RunSpecimens)
    few = RunSpecimens(run, whole._labels, most=15)
    assert "of 78 objects" in few.scope
    (near,) = few.nearest(np.eye(1, few.backbone.dimension, dtype=np.float32), count=200)
    assert {specimen.slide_id for specimen in near.labelled} == {"a", "b"}
    assert len({specimen.slide_id for specimen in near.unlabelled}) == 1


def test_vectors_of_another_backbone_are_refused(
    run: RunStore, head: Path, tmp_path: Path, labels: Path
) -> None:
    other = a_vector_run(tmp_path / "other", {"a": np.ones((3, 24), np.float16)})
    with pytest.raises(UsageError, match="of another backbone, net"):
        Identifier(specimens=open_specimens(run=other).specimens)
    index = SearchIndex.open(index_runs([run.url], tmp_path / "index").url)
    with pytest.raises(UsageError, match="does not hold"):
        open_specimens(run=other, index=index)
    foreign = tmp_path / "foreign.safetensors"
    run_command("classify", "train", "--labels", labels, "--out", foreign, "--backbone", "handcrafted")
    with pytest.raises(UsageError, match="the head was trained on vectors of handcrafted/1"):
        Identifier(head=foreign)


def test_a_heat_map_lies_on_the_mark(identifier: Identifier) -> None:
    crop = ObjectCutter().cut(photograph(draw_mark("disc", np.random.default_rng(5)))).crops[0]
    heat = identifier.heat_map(crop, "disc")
    assert heat.shape == crop.shape
    colour = np.ptp(heat.astype(np.int16), axis=2)
    corners = np.concatenate([colour[:20, :20].ravel(), colour[-20:, -20:].ravel()])
    assert colour[60:-60, 60:-60].mean() > 2 * corners.mean()
    with pytest.raises(UsageError, match="no class 'oak'"):
        identifier.heat_map(crop, "oak")
    with pytest.raises(UsageError, match="no head"):
        Identifier().heat_map(crop, "disc")


def test_um_per_px_is_that_of_the_file_a_sidecar_or_the_option(tmp_path: Path) -> None:
    pixels = Pillow.fromarray(draw_mark("disc", np.random.default_rng(5)))
    stated, printed = tmp_path / "stated.tif", tmp_path / "printed.jpg"
    pixels.save(stated, resolution=20_000, resolution_unit=3)  # per cm
    pixels.save(printed, dpi=(72, 72))
    expected: Mapping[Path, tuple[float | None, str | None]] = {stated: (0.5, "file"), printed: (None, None)}
    for path, (um_per_px, source) in expected.items():
        image = read_photograph(path)
        assert (image.um_per_px, image.um_per_px_from) == (um_per_px, source)
    assert "no microscope has" in read_photograph(printed).unused
    assert read_photograph(stated, mpp=0.3).um_per_px == 0.5
    assert read_photograph(printed, mpp=0.3).um_per_px_from == "given"
    (tmp_path / "fields.json").write_text('{"mpp": 0.25}')
    assert (read_photograph(printed).um_per_px, read_photograph(printed).um_per_px_from) == (0.25, "sidecar")
    with pytest.raises(UsageError, match="is not between"):
        read_photograph(printed, mpp=400)


def test_transparent_16_bit_and_webp_images_are_read(tmp_path: Path) -> None:
    mark = draw_mark("disc", np.random.default_rng(5))
    alpha = np.full(mark.shape[:2], 255, np.uint8)
    alpha[:5] = 0
    Pillow.fromarray(np.dstack([mark, alpha])).save(tmp_path / "clear.png")
    clear = read_photograph(tmp_path / "clear.png").pixels
    assert (clear[:5] == 255).all()
    assert np.array_equal(clear[5:], mark[5:])
    Pillow.fromarray(mark[..., 1].astype(np.uint16) * 256).save(tmp_path / "deep.tif")
    assert np.abs(read_photograph(tmp_path / "deep.tif").pixels[..., 0] - mark[..., 1].astype(int)).max() <= 1
    Pillow.fromarray(mark).save(tmp_path / "photo.webp", lossless=True)
    assert np.array_equal(read_photograph(tmp_path / "photo.webp").pixels, mark)


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("bomb.png", bomb(), TooLarge, "60000 x 60000 px"),
        ("text.jpg", b"no image", UsageError, "none of the formats"),
        (
            "run.eps",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n",
            UsageError,
            "none of the formats",
        ),
        ("cut.jpg", b"\xff\xd8\xff\xe0", FossilrayError, "cut.jpg"),
        ("slide.mrxs", b"\xff\xd8\xff\xe0", UsageError, "fossilray process"),
        ("empty.png", b"", UsageError, "empty.png"),
    ],
)
def test_hostile_and_wrong_files_are_refused(
    tmp_path: Path, name: str, content: bytes, error: type[FossilrayError], words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=words):
        read_photograph(tmp_path / name)


def test_folders_pipes_and_tiny_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_photograph(tmp_path)
    Pillow.new("RGB", (9, 200)).save(tmp_path / "thin.png")
    with pytest.raises(UsageError, match="9 x 200 px"):
        read_photograph(tmp_path / "thin.png")
    Pillow.fromarray(draw_mark("disc", np.random.default_rng(5))).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "torn.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(NotASlide, match="damaged"):
        read_photograph(tmp_path / "torn.png")


def test_the_command_prints_a_table_or_json(head: Path, run: RunStore, names: Path, tmp_path: Path) -> None:
    pixels, boxes = draw_field(ON_FIELD, np.random.default_rng(3))
    Pillow.fromarray(pixels).save(tmp_path / "field.png")
    Pillow.fromarray(draw_mark("ring", np.random.default_rng(5))).save(tmp_path / "ring.png")
    (tmp_path / "bad.png").write_bytes(b"bad")
    images = [tmp_path / name for name in ("field.png", "ring.png", "bad.png")]
    options = ("--head", head, "--run", run.url, "--labels", names, "--mpp", 0.5, "--novelty-p", 0.02)
    printed = invoke("identify", *images, *options, columns=200)
    assert printed.exit_code == 4
    assert f"field of view with {len(boxes)} objects, 640 x 384 px, 0.5 um per px (given)" in printed.output
    assert "like nothing labelled, p = 0.013" in printed.output
    assert "left out: " in printed.output
    assert "backbone fossilray-lite0 sha256 " in printed.output
    result = invoke("identify", *images[:2], *options, "--json")
    assert result.exit_code == 0
    record: dict[str, Any] = json.loads(result.stdout)
    assert [len(image["objects"]) for image in record["images"]] == [len(boxes), 1]
    assert record["images"][1]["objects"][0]["taxa"][0]["name"] == "ring"
    assert record["images"][0]["head"]["sha256"]
    only = invoke("identify", images[2], *options)
    assert (only.exit_code, "bad.png" in str(only.exception)) == (1, True)
