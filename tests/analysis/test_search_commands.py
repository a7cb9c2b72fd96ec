"""`fossilray index` and `fossilray similar` from the command line, with the bundled backbone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow
from support.cli_runner import invoke, rows_of, run_command
from support.indexed_runs import CROP_PX, a_vector_run, commit_vectors, index_runs, kinds_of_vectors

from fossilray.analysis.search.plan import IndexSettings
from fossilray.core.config import EmbedderConfig
from fossilray.core.errors import UsageError
from fossilray.models.backbones.load import embedder_digest, load_embedder
from fossilray.store import RunStore

SMALL = IndexSettings(quantizer="pca64-8bit", lists=4, shard_objects=60)


def shapes(count: int, *, seed: int) -> NDArray[np.uint8]:
    """Rings, crosses and bars (by object_id % 3) of random size and shade on a clear background."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:CROP_PX, :CROP_PX] - (CROP_PX - 1) / 2
    crops = np.empty((count, CROP_PX, CROP_PX, 3), np.uint8)
    for number in range(count):
        radius = rng.uniform(8, 13)
        inside = (
            np.abs(np.hypot(x, y) - radius) < 2.5,
            (np.minimum(np.abs(x), np.abs(y)) < 2.5) & (np.maximum(np.abs(x), np.abs(y)) < radius),
            np.abs(y + rng.uniform(-2, 2)) < 3.5,
        )[number % 3]
        crops[number] = np.where(inside[..., None], rng.uniform(40, 120), 225) + rng.integers(
            0, 4, (CROP_PX, CROP_PX, 1)
        )
    return crops


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    config = EmbedderConfig(weights="bundled")
    embedder = load_embedder(config, device="cpu")
    assert embedder is not None
    (digest,) = embedder_digest(config).values()
    pixels = {"a-2030": shapes(49, seed=1), "b-2050": shapes(34, seed=2)}
    vectors = {name: embedder.embed(crops) for name, crops in pixels.items()}
    folder = tmp_path_factory.mktemp("runs") / "run"
    return a_vector_run(folder, vectors, sha256=digest, pixels=pixels, wells={"b-2050": "6407/6-5"})


@pytest.fixture(scope="module")
def index(run: RunStore, tmp_path_factory: pytest.TempPathFactory) -> str:
    return index_runs([run.url], tmp_path_factory.mktemp("index") / "index", SMALL).url


def test_an_image_finds_objects_of_its_shape(index: str, tmp_path: Path) -> None:
    for kind in range(3):
        Pillow.fromarray(shapes(3, seed=9)[kind]).resize((90, 90)).save(tmp_path / f"{kind}.png")
    out, sheet = tmp_path / "hits.csv", tmp_path / "sheet.html"
    images = [word for kind in range(3) for word in ("--image", str(tmp_path / f"{kind}.png"))]
    run_command("similar", index, *images, "--limit", "6", "--out", str(out), "--sheet", str(sheet))
    rows = rows_of(out)
    assert len(rows) == 18
    right = [int(row["object_id"]) % 3 == int(Path(row["query"]).stem) for row in rows]
    assert np.mean(right) > 0.8
    page = sheet.read_text()
    assert page.count("data:image/jpeg;base64,") == 18 + 3
    assert "<script" not in page
    assert "http://" not in page.replace("http-equiv", "")


def test_an_object_finds_others_and_not_itself(index: str, tmp_path: Path) -> None:
    output = run_command("similar", index, "--object", "a-2030:3", "--limit", "5")
    assert "5 rows" in output
    out = tmp_path / "hits.parquet"
    run_command(
        "similar", index, "--object", "a-2030:3", "--limit", "100", "--out", str(out), "--probes", "4"
    )
    found = pq.read_table(out).to_pylist()
    assert ("a-2030", 3) not in {(row["slide_id"], row["object_id"]) for row in found}
    assert len(found) == 48 + 33 - 1
    assert [row["rank"] for row in found] == list(range(1, 81))


def test_each_image_of_a_folder_is_a_query_and_a_picture_shows_all(index: str, tmp_path: Path) -> None:
    for kind in ("ring", "cross"):
        (tmp_path / "crops" / kind).mkdir(parents=True)
        Pillow.fromarray(shapes(1, seed=4)[0]).save(tmp_path / "crops" / kind / "same name.png")
    out, sheet = tmp_path / "hits.json", tmp_path / "sheet.png"
    run_command(
        *("similar", index, "--crops", str(tmp_path / "crops"), "--where", "well = '6407/6-5'"),
        *("--limit", "12", "--out", str(out), "--sheet", str(sheet)),
    )
    rows = json.loads(out.read_text())
    assert {row["query"] for row in rows} == {"ring/same name.png", "cross/same name.png"}
    assert {row["well"] for row in rows} == {"6407/6-5"}
    with Pillow.open(sheet) as picture:
        assert picture.width > 11 * 112
        assert np.asarray(picture).std() > 5


def test_invalid_queries_are_refused(index: str, run: RunStore, tmp_path: Path) -> None:
    picture, text = tmp_path / "one.png", tmp_path / "text.png"
    Pillow.fromarray(shapes(1, seed=1)[0]).save(picture)
    text.write_text("no image")
    (tmp_path / "empty").mkdir()
    for words, reason in (
        ([], "by one of --image"),
        (["--image", str(picture), "--object", "a-2030:1"], "by one of --image"),
        (["--image", str(text)], "it is not in a known image format"),
        (["--crops", str(tmp_path / "empty")], "holds no image"),
        (["--crops", str(tmp_path / "nowhere")], "is not a folder"),
        (["--object", "a-2030"], "is not SLIDE:ID"),
        (["--object", "missing:1"], "its runs lack this slide"),
        (["--object", "a-2030:49"], "has objects 0 to 48"),
        (["--object", "a-2030:1", "--sheet", "sheet.pdf"], "neither .html nor .png"),
        (["--object", "a-2030:1", "--out", "hits.xls"], "neither .csv nor .json"),
        (["--object", "a-2030:1", "--where", "width_um >"], "syntax error"),
        (["--image", str(picture), "--backbone", "nowhere.safetensors"], "neither a file"),
    ):
        with pytest.raises(UsageError, match=reason):
            run_command("similar", index, *words)
    with pytest.raises(UsageError, match="holds no index"):
        run_command("similar", run.url, "--object", "a-2030:1")


def test_images_are_embedded_by_the_backbone_of_the_index_only(tmp_path: Path) -> None:
    other = a_vector_run(tmp_path / "run", {"a": kinds_of_vectors(60, seed=1)})
    index = index_runs([other.url], tmp_path / "index", SMALL).url
    Pillow.fromarray(shapes(1, seed=1)[0]).save(tmp_path / "one.png")
    with pytest.raises(UsageError, match=r"are of another backbone, bundled .*; give --backbone the file"):
        run_command("similar", index, "--image", str(tmp_path / "one.png"))


def test_status_lists_what_an_index_holds_and_lacks(tmp_path: Path) -> None:
    store = a_vector_run(tmp_path / "run", {"a": kinds_of_vectors(60, seed=1)})
    index = index_runs([store.url], tmp_path / "index", SMALL).url
    output = run_command("index", "status", index)
    assert "59 vectors of 1 slide in 1 shard," in output
    assert "it holds all that its runs hold" in output
    commit_vectors(store, "late", kinds_of_vectors(20, seed=2))
    result = invoke("index", "status", index)
    assert result.exit_code == 3
    assert "late" in result.output
    warned = invoke("similar", index, "--object", "a:1", "--limit", "3")
    assert warned.exit_code == 0
    assert "not in the index: 1 slide with 20 objects" in warned.stderr


def test_duplicates_are_listed_with_both_positions(tmp_path: Path) -> None:
    slides = {"a": kinds_of_vectors(60, seed=1), "b": kinds_of_vectors(50, seed=2)}
    slides["b"][9] = slides["a"][4]
    store = a_vector_run(tmp_path / "run", slides)
    index = index_runs([store.url], tmp_path / "index", SMALL).url
    out = tmp_path / "pairs.csv"
    run_command("index", "duplicates", index, "--threshold", "0.9999", "--out", str(out))
    (row,) = rows_of(out)
    assert [row[name] for name in ("slide_id", "object_id", "slide_id_2", "object_id_2")] == [
        "a",
        "4",
        "b",
        "9",
    ]


def test_the_job_builds_shards_on_ray_and_then_adds_new_slides(shared_ray: str, tmp_path: Path) -> None:
    slides = {"a": kinds_of_vectors(300, seed=1), "b": kinds_of_vectors(250, seed=2)}
    store = a_vector_run(tmp_path / "run", slides)
    words = (
        "index",
        "build",
        store.url,
        "--to",
        str(tmp_path / "index"),
        "--shard-objects",
        "400",
        "--workers",
        "1",
        "--address",
        shared_ray,
    )
    output = run_command(*words)
    assert "2 of 2 shards committed" in output
    assert "548 vectors indexed" in output
    output = run_command(*words)
    assert "0 of 0" in output
    assert "holds all that its runs hold" in run_command("index", "status", str(tmp_path / "index"))
