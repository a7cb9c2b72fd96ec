"""Curation: clusters of similar crops, rules that leave clusters out, weights that balance the rest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.cli_runner import run_command
from support.run_fixtures import a_run, a_summary, some_objects
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)
from support.small_run import CROP_PX, DIMENSION, paint, start_run

from fossilray.core.config import CropsConfig, CurationConfig, StoreConfig, load_curation_config
from fossilray.core.errors import ConfigError, StoreError, UsageError
from fossilray.core.schemas import CURATION_SCHEMA
from fossilray.models.clustering import Clusters, find_clusters
from fossilray.store import RunStore, open_run
from fossilray.store.arrays.group import ArrayWriter
from fossilray.store.dataset.compact import compact_run
from fossilray.store.query.connection import run_query
from fossilray.training.crops.table import open_crops
from fossilray.training.curation.curate import curate_runs
from fossilray.training.curation.rules import balance_weights

PLENTY = CurationConfig(clusters=12, families=3, shown=4)

KINDS: dict[str, dict[str, float]] = {
    "spore": {},
    "pollen": {},
    "acritarch": {"longest_um": 8.0, "sharpness": 1.2},
    "charcoal": {"opacity": 0.95},
    "nothing": {"opacity": 0.003},
    "fog": {"sharpness": 4.0},
    "pile": {"overlap": 0.45},
}
"""Measures in which a kind differs from the usual ones; each kind has its own direction in embedding space."""
USUAL = {"longest_um": 40.0, "sharpness": 100.0, "opacity": 0.25, "overlap": 0.0}
LEFT_OUT = {"charcoal": "black", "nothing": "empty", "fog": "blurry", "pile": "several objects"}
SLIDES = (
    {"spore": 60, "acritarch": 30, "charcoal": 20, "fog": 12, "pile": 15},
    {"spore": 45, "pollen": 25, "acritarch": 20, "nothing": 18, "fog": 10, "charcoal": 5},
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return write_run(tmp_path_factory.mktemp("runs") / "run")


def write_run(
    url: Path | str, *, config: StoreConfig | None = None, names: tuple[str, str] = ("a", "b")
) -> RunStore:
    store = start_run(url, config=config)
    for number, (name, kinds) in enumerate(zip(names, SLIDES, strict=True)):
        commit_kinds(store, name, kinds, seed=number)
    return store


def commit_kinds(
    store: RunStore,
    slide_id: str,
    kinds: dict[str, int],
    *,
    seed: int,
    without_pixels: int = 0,
    without_vector: int = 0,
    boxes: NDArray[np.int32] | None = None,
    crops_of: Callable[[int], NDArray[np.uint8]] = lambda _: paint(0.5),
) -> None:
    """Commit a slide with objects of these kinds, the first ones without pixels, the last ones without a vector."""
    kind_of = kinds_of(kinds, seed=seed)
    count = len(kind_of)
    vectors = np.eye(DIMENSION)[[list(KINDS).index(kind) for kind in kind_of]]
    vectors = vectors * 3 + np.random.default_rng(seed + 100).normal(scale=0.15, size=vectors.shape)
    vectors[count - without_vector :] = 0
    attempt = store.attempts.start(slide_id, deadline_s=60)
    crops = CropsConfig(size_px=CROP_PX)
    writer = ArrayWriter(store, slide_id, attempt.attempt, count=count, crops=crops, dimension=DIMENSION)
    writer.write(0, np.stack([crops_of(row) for row in range(count)]), vectors.astype(np.float16))
    files = writer.finish()
    measures = {
        name: np.array([KINDS[kind].get(name, usual) for kind in kind_of]) for name, usual in USUAL.items()
    }
    corner = np.arange(count)[:, None] * np.array([1000, 0])
    boxes = np.concatenate([corner, corner + 160], axis=1) if boxes is None else boxes
    lost = np.arange(count) < without_pixels
    given_columns: dict[str, Any] = {
        **{name: boxes[:, column] for column, name in enumerate(("x_min", "y_min", "x_max", "y_max"))},
        "width_um": measures["longest_um"],
        "height_um": measures["longest_um"] * 0.7,
        "overlap": measures["overlap"],
    }
    table = some_objects(slide_id, files.path, count)
    for name, values in given_columns.items():
        table = put(table, name, pa.array(values))
    for name in ("opacity", "sharpness"):
        table = put(table, name, pa.array(measures[name], mask=lost))
    summary = a_summary(slide_id, attempt.attempt, objects=count)
    assert store.commit_slide(table, summary, files, attempt=attempt)


def put(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(index), column.cast(table.schema.field(index).type))


def kinds_of(kinds: dict[str, int], *, seed: int) -> list[str]:
    listed = [kind for kind, count in kinds.items() for _ in range(count)]
    return [listed[index] for index in np.random.default_rng(seed).permutation(len(listed))]


def truth(names: tuple[str, str] = ("a", "b")) -> dict[tuple[str, int], str]:
    return {
        (name, object_id): kind
        for number, name in enumerate(names)
        for object_id, kind in enumerate(kinds_of(SLIDES[number], seed=number))
    }


def rows_of(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    return rows


def test_each_cluster_that_is_no_fossil_is_left_out_with_its_reason(run: RunStore, tmp_path: Path) -> None:
    record = curate_runs([run], str(tmp_path / "curation.parquet"), PLENTY)
    kind = truth()
    rows = rows_of(tmp_path / "curation.parquet")
    assert [(row["slide_id"], row["object_id"]) for row in rows] == sorted(kind)
    for row in rows:
        expected = LEFT_OUT.get(kind[row["slide_id"], row["object_id"]])
        assert row["reason"] == expected
        assert row["keep"] == (expected is None)
        assert (row["weight"] > 0) == row["keep"]
    assert record.kept == sum(row["keep"] for row in rows)
    assert record.objects == len(rows)


def test_what_is_small_is_not_taken_for_blurry(run: RunStore, tmp_path: Path) -> None:
    curate_runs([run], str(tmp_path / "curation.parquet"), PLENTY)
    kind = truth()
    small = [
        row
        for row in rows_of(tmp_path / "curation.parquet")
        if kind[row["slide_id"], row["object_id"]] == "acritarch"
    ]
    assert KINDS["acritarch"]["sharpness"] < KINDS["fog"]["sharpness"]
    assert all(row["keep"] for row in small)


def test_a_box_that_holds_the_centres_of_others_holds_several_objects(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    kinds = {"spore": 40, "pollen": 20, "acritarch": 40}
    of = np.array(kinds_of(kinds, seed=0))
    corner = np.arange(100)[:, None] * np.array([10_000, 0])
    boxes = np.concatenate([corner, corner + 160], axis=1)
    hosts, guests = np.flatnonzero(of == "pollen"), np.flatnonzero(of == "acritarch")
    for number, guest in enumerate(guests):
        left, top = boxes[hosts[number % 20], :2] + (20 if number < 20 else 90)
        boxes[guest] = left, top, left + 30, top + 30
    commit_kinds(store, "a", kinds, seed=0, boxes=boxes)
    curate_runs([store], str(tmp_path / "curation.parquet"), PLENTY)
    reason = np.array([row["reason"] for row in rows_of(tmp_path / "curation.parquet")])
    assert set(reason[hosts]) == {"several objects"}
    assert set(reason[guests]) | set(reason[of == "spore"]) == {None}


def test_sizes_are_left_out_where_configured(run: RunStore, tmp_path: Path) -> None:
    out, kind = tmp_path / "curation.parquet", truth()
    curate_runs([run], str(out), PLENTY.model_copy(update={"smallest_um": 10.0}))
    small = [row for row in rows_of(out) if kind[row["slide_id"], row["object_id"]] == "acritarch"]
    assert {row["reason"] for row in small} == {"small"}
    curate_runs([run], str(out), PLENTY.model_copy(update={"largest_um": 30.0}))
    assert {row["reason"] for row in rows_of(out)} == {*LEFT_OUT.values(), "large", None}


def test_clusters_of_unequal_size_count_alike_up_to_the_cap(run: RunStore, tmp_path: Path) -> None:
    out = tmp_path / "curation.parquet"
    curate_runs([run], str(out), PLENTY.model_copy(update={"most_weight": 100.0}))
    kept = [row for row in rows_of(out) if row["keep"]]
    size = Counter(row["cluster"] for row in kept)
    total = {cluster: sum(r["weight"] for r in kept if r["cluster"] == cluster) for cluster in size}
    assert np.allclose(list(total.values()), len(kept) / len(size), rtol=1e-5)
    curate_runs([run], str(out), PLENTY.model_copy(update={"most_weight": 1.5}))
    weights = np.array([row["weight"] for row in rows_of(out) if row["keep"]])
    assert weights.max() == pytest.approx(1.5)
    assert weights.mean() == pytest.approx(1, rel=1e-5)


@given(
    st.lists(st.integers(0, 10**9), min_size=1, max_size=30),
    st.floats(0, 1),
    st.floats(1, 50),
)
def test_weights_have_mean_one_stay_below_the_cap_and_favour_small_clusters(
    size: list[int], power: float, most: float
) -> None:
    sizes = np.array(size, np.int64)
    weight = balance_weights(sizes, power=power, limit=most)
    assert (weight[sizes == 0] == 0).all()
    assert weight.max() <= most * (1 + 1e-9)
    if sizes.sum():
        assert (weight * sizes).sum() / sizes.sum() == pytest.approx(1)
        by_size = weight[np.argsort(sizes)][(sizes == 0).sum() :]
        assert (np.diff(by_size) <= 1e-9).all()


def test_a_vector_is_of_the_cluster_whose_centre_is_nearest() -> None:
    rng = np.random.default_rng(0)
    vectors, centres = (rng.normal(size=(n, 5)).astype(np.float32) for n in (9000, 7))
    found = Clusters(centres, np.zeros(7, np.int32)).assign(vectors)
    distance = np.linalg.norm(vectors[:, None].astype(np.float64) - centres[None], axis=2)
    assert (distance[np.arange(9000), found] <= distance.min(axis=1) + 1e-5).all()


def test_families_hold_clusters_that_lie_together_and_stand_side_by_side() -> None:
    rng = np.random.default_rng(1)
    far = np.eye(8)[:3] * 10
    kinds = np.concatenate(
        [far[i] + rng.normal(scale=0.5, size=(n, 8)) for i, n in enumerate((900, 60, 400))]
    )
    found = find_clusters(kinds.astype(np.float32), clusters=15, families=3, seed=0)
    nearest = np.linalg.norm(found.centres[:, None] - far[None], axis=2).argmin(axis=1)
    assert len({(of, near) for of, near in zip(found.family, nearest, strict=True)}) == 3
    assert (np.diff(found.family) >= 0).all()


def test_training_takes_what_is_kept_with_its_weight(run: RunStore, tmp_path: Path) -> None:
    out = tmp_path / "curation.parquet"
    curate_runs([run], str(out), PLENTY)
    crops = open_crops([run.url], curation=str(out))
    kept = {(row["slide_id"], row["object_id"]): row["weight"] for row in rows_of(out) if row["keep"]}
    got = crops.rows.to_pylist()
    assert {(row["slide_id"], row["object_id"]): row["weight"] for row in got} == kept


def test_a_run_its_dataset_and_its_copy_in_s3_are_curated_alike(
    run: RunStore,
    tmp_path: Path,
    s3_run: tuple[str, StoreConfig],  # noqa: F811
) -> None:
    address, access = s3_run
    compact_run(run, str(tmp_path / "dataset"), access=StoreConfig())
    remote = write_run(address, config=access)
    curate_runs([run], str(tmp_path / "run.parquet"), PLENTY)
    curate_runs([open_run(str(tmp_path / "dataset"))], str(tmp_path / "dataset.parquet"), PLENTY)
    curate_runs([remote], f"{address}-curation/remote.parquet", PLENTY, access=access)
    table = pq.read_table(tmp_path / "run.parquet")
    assert table.schema.equals(CURATION_SCHEMA)
    assert pq.read_table(tmp_path / "dataset.parquet").equals(table)
    found = RunStore.open(f"{address}-curation", access).files.find("")
    assert found == ["remote.html", "remote.parquet"]
    content = RunStore.open(f"{address}-curation", access).files.read("remote.parquet")
    assert pq.read_table(pa.BufferReader(content)).equals(table)
    kept = open_crops([address], curation=f"{address}-curation/remote.parquet", access=access)
    assert len(kept) == sum(table["keep"].to_pylist())


def test_several_runs_share_clusters(run: RunStore, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", names=("c", "d"))
    record = curate_runs([run, other], str(tmp_path / "curation.parquet"), PLENTY)
    clusters: dict[str, set[int]] = {"ab": set(), "cd": set()}
    for row in rows_of(tmp_path / "curation.parquet"):
        clusters["ab" if row["slide_id"] in "ab" else "cd"].add(row["cluster"])
    assert clusters["ab"] == clusters["cd"]
    assert [(one.url, one.slides) for one in record.runs] == [(run.url, 2), (other.url, 2)]


def test_equal_seeds_give_equal_bytes_and_the_footer_records_the_settings(
    run: RunStore, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        curate_runs([run], str(tmp_path / f"{name}.parquet"), PLENTY)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    stated = json.loads(pq.read_schema(tmp_path / "one.parquet").metadata[b"fossilray"])
    assert stated["runs"][0]["digest"] == run.read_run().digest
    assert CurationConfig(**stated["config"]) == PLENTY
    assert sum(one["objects"] for one in stated["clusters"]) == stated["objects"]


def test_a_small_sample_finds_the_same_kinds(run: RunStore, tmp_path: Path) -> None:
    sparing = PLENTY.model_copy(update={"sample": 120, "clusters": 8})
    curate_runs([run], str(tmp_path / "curation.parquet"), sparing)
    kind = truth()
    wrong = [
        row
        for row in rows_of(tmp_path / "curation.parquet")
        if row["keep"] == (kind[row["slide_id"], row["object_id"]] in LEFT_OUT)
    ]
    assert len(wrong) < 0.1 * len(kind)


def test_objects_without_pixels_or_vector_are_left_out_and_counted(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    commit_kinds(store, "a", {"spore": 50, "pollen": 50}, seed=0, without_pixels=4, without_vector=3)
    record = curate_runs([store], str(tmp_path / "curation.parquet"), PLENTY)
    assert (record.without_pixels, record.without_vector, record.kept) == (4, 3, 93)
    rows = rows_of(tmp_path / "curation.parquet")
    assert [row["reason"] for row in rows] == ["without pixels"] * 4 + [None] * 93 + ["without vector"] * 3
    assert all((row["cluster"] == -1) == (not row["keep"]) for row in rows)


def test_what_cannot_be_curated_is_refused_in_a_sentence(run: RunStore, tmp_path: Path) -> None:
    out = str(tmp_path / "curation.parquet")
    with pytest.raises(UsageError, match="slide a is in"):
        curate_runs([run, run], out, PLENTY)
    with pytest.raises(UsageError, match="no embeddings"):
        curate_runs([start_run(tmp_path / "bare", embeddings=False)], out, PLENTY)
    other = RunStore.open(str(tmp_path / "other"))
    other.create_or_check(a_run(**{"embedder/another": "cd" * 32}))
    with pytest.raises(UsageError, match=r"are of another backbone, .*; curate these runs one by one"):
        curate_runs([run, other], out, PLENTY)
    with pytest.raises(UsageError, match="no object with pixels"):
        curate_runs([start_run(tmp_path / "empty")], out, PLENTY)
    with pytest.raises(UsageError, match=r"ends in \.parquet"):
        curate_runs([run], str(tmp_path / "curation.csv"), PLENTY)
    with pytest.raises(ConfigError, match="blackness is not a configuration field"):
        load_curation_config(None, ["blackness=1"])
    assert not (tmp_path / "curation.parquet").exists()


def test_a_curation_that_fails_leaves_the_earlier_one(tmp_path: Path) -> None:
    store = write_run(tmp_path / "run")
    out = tmp_path / "out" / "curation.parquet"
    curate_runs([store], str(out), PLENTY)
    before = out.read_bytes()
    (vectors,) = (tmp_path / "run" / "arrays" / "b").glob("*/embeddings/c/0/0")
    vectors.write_bytes(vectors.read_bytes()[:40])
    with pytest.raises(StoreError):
        curate_runs([store], str(out), PLENTY)
    assert out.read_bytes() == before
    assert sorted(path.name for path in out.parent.iterdir()) == ["curation.html", "curation.parquet"]


def test_the_page_shows_a_sheet_for_every_cluster_and_counts_what_it_cannot_show(tmp_path: Path) -> None:
    store = write_run(tmp_path / "run <b>")
    (crops,) = (tmp_path / "run <b>" / "arrays" / "b").glob("*/crops/c/0/0/0/0")
    crops.unlink()
    record = curate_runs([store], str(tmp_path / "curation.parquet"), PLENTY)
    page = (tmp_path / "curation.html").read_text()
    for one in record.clusters:
        assert f'id="cluster-{one.cluster}"' in page
    assert page.count("data:image/jpeg;base64,") == len(record.clusters)
    assert "of the crops shown could not be read" in page
    assert "left out: black" in page
    assert "run &lt;b&gt;" in page
    assert "<b>:" not in page
    assert "<script" not in page
    assert "http://" not in page.replace("http-equiv", "")


def test_the_command_writes_a_table_that_queries_join(run: RunStore, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("clusters: 12\nfamilies: 3\n")
    out = tmp_path / "mine.parquet"
    output = run_command("curate", run.url, "--out", out, "--rules", rules, "--rule", "black_opacity=2")
    assert (tmp_path / "mine.html").is_file()
    joined = run_query(
        run,
        "SELECT reason, count(*) AS n, min(opacity) AS least FROM objects "
        f"JOIN '{out}' USING (slide_id, object_id) WHERE NOT keep GROUP BY reason ORDER BY reason",
    ).to_pylist()
    assert [row["reason"] for row in joined] == ["blurry", "empty", "several objects"]
    assert f"{pq.read_table(out)['keep'].to_pylist().count(True)} of 260 objects kept" in output
