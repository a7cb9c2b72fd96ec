"""Exports opened by the libraries that their users open them with."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from support.classified_run import GENERA, embed, predict
from support.cli_runner import invoke
from support.slides_on_disk import write_slide
from support.small_run import CROP_PX, DIMENSION, WELL, commit_slide, write_small_run

from fossilray.analysis.export.anndata import export_anndata
from fossilray.analysis.export.coco import ANNOTATIONS, export_coco
from fossilray.analysis.export.image_folder import export_image_folder, folder_names
from fossilray.analysis.export.tiles import TileOptions
from fossilray.analysis.export.yolo import export_yolo
from fossilray.core.config import load_config
from fossilray.core.config.choices import NO_PREDICTIONS
from fossilray.core.errors import FossilrayError, StoreError, UsageError
from fossilray.core.records import CatalogRow, WorkItem
from fossilray.models.detectors.ultralytics_network import quiet_ultralytics
from fossilray.processing.worker import SlideWorker
from fossilray.store import RunStore
from fossilray.store.query.connection import load_embeddings, run_query
from fossilray.store.run.run_record import describe_run

HOSTILE = ("Alnus", "alnus", "../../etc", "CON", "<b>Ø=1</b>")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    run = write_small_run(tmp_path_factory.mktemp("runs") / "run")
    predict(run, "genera")
    predict(run, "hostile", genera=HOSTILE)
    embed(run, "other", dimension=3)
    return run


def with_genera(store: RunStore, head: str) -> list[dict[str, Any]]:
    sql = (
        "SELECT o.*, p.genus FROM objects o JOIN predictions p USING (slide_id, object_id) "
        f"WHERE head = '{head}' ORDER BY o.well, slide_id, object_id"
    )
    return run_query(store, sql).to_pylist()


def test_torchvision_reads_an_image_folder_with_the_heads_classes(store: RunStore, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    out = tmp_path / "folder"
    result = invoke("export", store.url, "--format", "imagefolder", "--predictions", "genera", "--out", out)
    rows = [row for row in with_genera(store, "genera") if row["genus"]]
    assert not result.exit_code
    assert f"{len(rows)} objects" in result.output
    folder = ImageFolder(str(out))
    assert folder.classes == sorted(GENERA)
    counts = np.bincount(folder.targets, minlength=len(GENERA)).tolist()
    assert counts == [sum(row["genus"] == genus for row in rows) for genus in sorted(GENERA)]
    by_name = {f"{row['slide_id']}-{row['object_id']:06d}.jpg": row for row in rows}
    for path, number in folder.samples[:20]:
        row = by_name[Path(path).name]
        image, _ = folder[folder.samples.index((path, number))]
        assert row["genus"] == folder.classes[number]
        assert max(image.size) == CROP_PX
        assert image.size[0] / image.size[1] == pytest.approx(row["width_um"] / row["height_um"], rel=0.1)
    with (out / "objects.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert {row["file"] for row in table} == {
        f"{by_name[Path(p).name]['genus']}/{Path(p).name}" for p, _ in folder.samples
    }


def test_hostile_genera_become_folders_within_the_export(store: RunStore, tmp_path: Path) -> None:
    names = folder_names([*HOSTILE, "..", "", "a/b", "a\\b", "x" * 300])
    assert len({name.casefold() for name in names.values()}) == len(names)
    assert not any({"/", "\\", "<", ">"} & set(name) or name.startswith(".") for name in names.values())
    assert names["Alnus"] == "Alnus"
    assert names["CON"] == "_CON"
    export_image_folder(store, tmp_path / "in" / "out", head="hostile")
    assert [one.name for one in (tmp_path / "in").iterdir()] == ["out"]
    assert {one.name for one in (tmp_path / "in" / "out").iterdir()} == {
        *folder_names(HOSTILE).values(),
        "objects.csv",
    }
    with pytest.raises(UsageError, match="not empty"):
        export_image_folder(store, tmp_path / "in" / "out", head="hostile")


def test_an_image_folder_without_predictions_is_refused(store: RunStore, tmp_path: Path) -> None:
    options = ("--format", "imagefolder", "--out", tmp_path / "out")
    result = invoke("export", store.url, *options, "--predictions", "none")
    assert isinstance(result.exception, UsageError)
    assert "--predictions is none" in str(result.exception)
    unclassified = write_small_run(tmp_path / "run")
    result = invoke("export", unclassified.url, *options)
    assert isinstance(result.exception, UsageError)
    assert "fossilray classify run" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_anndata_reads_vectors_with_the_columns_of_objects(store: RunStore, tmp_path: Path) -> None:
    import anndata

    out = tmp_path / "a.h5ad"
    result = invoke("export", store.url, "--format", "anndata", "--predictions", "hostile", "--out", out)
    assert not result.exit_code, result.exception
    read = anndata.read_h5ad(out)
    rows = run_query(store, "SELECT * FROM objects ORDER BY well, slide_id, object_id")
    named = with_genera(store, "hostile")
    assert read.shape == (rows.num_rows, DIMENSION)
    assert np.array_equal(read.X, load_embeddings(store, rows).astype(np.float32))
    assert list(read.obs_names) == [f"{row['slide_id']}:{row['object_id']}" for row in named]
    assert read.obs["genus"].astype(object).where(read.obs["genus"].notna(), None).tolist() == [
        row["genus"] for row in named
    ]
    assert set(read.obs["genus"].cat.categories) == set(HOSTILE)
    for name in ("width_um", "measured_depth_m", "object_id", "isolated", "x_min"):
        assert np.allclose(
            read.obs[name].to_numpy(), rows[name].to_numpy(zero_copy_only=False), equal_nan=True
        )
    assert list(read.obs["well"]) == rows["well"].to_pylist()
    middle = (rows["x_min"].to_numpy() + rows["x_max"].to_numpy()) / 2
    assert np.array_equal(read.obsm["spatial"][:, 0], middle)
    assert read.uns["fossilray"]["run"] == store.url
    assert set(rows.column_names) - {"arrays", "plane_sharpness"} <= set(read.obs.columns)
    read[read.obs["genus"] == "Alnus"].copy().write_h5ad(tmp_path / "again.h5ad")


def test_anndata_takes_other_embeddings_and_a_condition(store: RunStore, tmp_path: Path) -> None:
    import anndata

    count = export_anndata(
        store, tmp_path / "a.h5ad", embeddings="other", where="object_id IN (3, 7)", head=NO_PREDICTIONS
    )
    read = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert read.shape == (count.objects, 3)
    assert np.array_equal(read.X[:, 0], read.obs["object_id"])
    assert set(read.obs["object_id"]) == {3, 7}
    assert "genus" not in read.obs
    assert export_anndata(store, tmp_path / "none.h5ad", where="false").objects == 0
    assert anndata.read_h5ad(tmp_path / "none.h5ad").n_obs == 0
    with pytest.raises(UsageError, match="not exist yet"):
        export_anndata(store, tmp_path / "a.h5ad")
    with pytest.raises(FossilrayError, match="no embeddings named lost"):
        export_anndata(store, tmp_path / "b.h5ad", embeddings="lost")
    assert not list(tmp_path.glob("*.part"))


def test_embeddings_of_a_reprocessed_slide_are_refused(tmp_path: Path) -> None:
    run = write_small_run(tmp_path / "run")
    embed(run, "other", dimension=3)
    run.files.delete(run.committed_files()["a-2030"])
    commit_slide(run, "a-2030", count=7, well=WELL, depth_m=2030.0, seed=9)
    run.rebuild_summaries()
    with pytest.raises(StoreError, match="processed again since"):
        export_anndata(run, tmp_path / "a.h5ad", embeddings="other")
    assert not (tmp_path / "a.h5ad").exists()


def test_coco_and_yolo_refuse_missing_slides(store: RunStore, tmp_path: Path) -> None:
    for export in (export_yolo, export_coco):
        with pytest.raises(UsageError, match="is missing; mount it there"):
            export(store, tmp_path / "out")
        with pytest.raises(UsageError, match="no committed slide no;"):
            export(store, tmp_path / "out", slides=["no"])
    with pytest.raises(UsageError, match="is the name of a file"):
        export_coco(store, tmp_path / "a.json")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def found_discs(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """Two slides, each of another well, with the discs that the classical detector found."""
    folder = tmp_path_factory.mktemp("discs")
    config = load_config(
        None, ["detector.kind=classical", "detector.classical.min_area_um2=100", "embedder.weights=none"]
    )
    run = RunStore.open(str(folder / "run"))
    run.create_or_check(describe_run(config, {}))
    rows = [CatalogRow(name, str(folder / f"{name}.mrxs"), well=f"well {name}") for name in ("one", "two")]
    run.freeze_catalog(rows)
    worker = SlideWorker(str(folder / "run"), config)
    worker.prepare()
    for number, row in enumerate(rows):
        write_slide(Path(row.path), size=1536, objects=6 - number)
        worker.process(WorkItem.of_slide(row))
    predict(run, "genera", genera=("Ø <b>", "no: yes"))
    return run


def dark_inside(image: np.ndarray, box: tuple[float, float, float, float]) -> bool:
    """Return whether the middle of a box (x, y, width, height) is dark in blue, as discs are."""
    x, y, width, height = box
    inside = image[
        round(y + height / 4) : round(y + 3 * height / 4), round(x + width / 4) : round(x + 3 * width / 4)
    ]
    return bool(inside[..., 0].mean() < 110)


def test_ultralytics_reads_yolo_tiles_and_finds_discs_in_the_boxes(
    found_discs: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOLO_OFFLINE", "True")
    quiet_ultralytics()
    from ultralytics.data import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    out = tmp_path / "yolo"
    options = ("--predictions", "genera", "--tile-px", 160, "--um-per-px", 0.5, "--background", 0.2)
    result = invoke("export", found_discs.url, "--format", "yolo", "--out", out, *options)
    assert not result.exit_code, result.exception
    checked = check_det_dataset(str(out / "data.yaml"), autodownload=False)
    assert checked["names"] == {0: "object", 1: "Ø <b>", 2: "no: yes"}
    boxes = background = images = 0
    for subset in ("train", "val"):
        dataset = YOLODataset(img_path=checked[subset], data=checked, imgsz=160, augment=False, task="detect")
        slides = {Path(label["im_file"]).name.split("-")[0] for label in dataset.labels}
        assert len(slides) == 1, "a well is in both subsets"
        for label in dataset.labels:
            image = cv2.imread(label["im_file"])
            assert image.shape == (160, 160, 3)
            for x, y, width, height in (label["bboxes"] * 160).tolist():
                assert dark_inside(image, (x - width / 2, y - height / 2, width, height))
                assert width <= 64
            if not len(label["cls"]):
                assert image[..., 0].min() > 150, "a background image shows a disc"
            boxes, images = boxes + len(label["cls"]), images + 1
            background += not len(label["cls"])
    (objects,) = run_query(found_discs, "SELECT count(*) AS n FROM objects")["n"].to_pylist()
    assert f"{objects} objects as {boxes} boxes in {images} images, {background} of them" in result.output
    assert background == pytest.approx(0.2 * images, abs=1.5)
    assert "Split by well." in result.output
    stated = yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8"))
    assert "path" not in stated


def test_pycocotools_reads_tiles_that_open_with_a_category_for_each_genus(
    found_discs: RunStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pycocotools.coco import COCO

    out = tmp_path / "coco"
    options = ("--predictions", "genera", "--tile-px", 160, "--um-per-px", 0.5)
    result = invoke("export", found_discs.url, "--format", "coco", "--out", out, *options)
    assert not result.exit_code, result.exception
    coco = COCO(str(out / ANNOTATIONS))
    capsys.readouterr()
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == [
        "object",
        "Ø <b>",
        "no: yes",
    ]
    for image in coco.loadImgs(coco.getImgIds()):
        pixels = cv2.imread(str(out / "images" / image["file_name"]))
        assert pixels.shape == (image["height"], image["width"], 3)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]])):
            x, y, width, height = annotation["bbox"]
            assert x >= 0
            assert y >= 0
            assert x + width <= image["width"]
            assert y + height <= image["height"]
            assert dark_inside(pixels, annotation["bbox"])
    names = {category["id"]: category["name"] for category in coco.dataset["categories"]}
    primary = {
        (annotation["slide_id"], annotation["object_id"]): names[annotation["category_id"]]
        for annotation in coco.anns.values()
        if annotation["primary"]
    }
    rows = with_genera(found_discs, "genera")
    assert primary == {(row["slide_id"], row["object_id"]): row["genus"] or "object" for row in rows}
    # Boxes as detections to be scored.
    scored = coco.loadRes(
        [
            {key: annotation[key] for key in ("image_id", "category_id", "bbox", "score")}
            for annotation in coco.anns.values()
        ]
    )
    assert len(scored.getAnnIds()) == len(coco.anns)
    assert {path.name for path in out.iterdir()} == {"images", "annotations"}
    assert len(list((out / "images").iterdir())) == len(coco.imgs)


def test_a_single_slide_is_not_split_and_data_yaml_states_it(found_discs: RunStore, tmp_path: Path) -> None:
    tiles = export_yolo(
        found_discs, tmp_path / "yolo", slides=["one"], options=TileOptions(background=0)
    ).tiles
    assert tiles.images == 1
    assert not tiles.unreadable
    assert not tiles.background
    stated = (tmp_path / "yolo" / "data.yaml").read_text()
    assert "single slide" in stated
    assert yaml.safe_load(stated)["val"] == "images/train"
    with pytest.raises(UsageError, match="not empty"):
        export_yolo(found_discs, tmp_path / "yolo")


@pytest.mark.parametrize(
    "options", [{"um_per_px": 0.0}, {"um_per_px": float("nan")}, {"tile_px": 10**6}, {"background": 1.0}]
)
def test_impossible_tiles_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="give"):
        TileOptions(**options)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("csv", ("--keep-bounds",)),
        ("coco", ("--validation", 0.3)),
        ("geojson", ("--tile-px", 320)),
        ("vectors", ("--predictions", "genera")),
        ("imagefolder", ("--embeddings", "other")),
    ],
)
def test_an_option_of_another_format_is_refused(
    store: RunStore, tmp_path: Path, form: str, options: tuple[Any, ...]
) -> None:
    result = invoke("export", store.url, "--format", form, "--out", tmp_path / "out", *options)
    assert isinstance(result.exception, UsageError)
    assert options[0] in str(result.exception)
    assert not list(tmp_path.iterdir())
