"""Labels of people: what is taken in, what is refused by name, what stands, and what is suggested next."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from support.classified_run import embed
from support.cli_runner import run_command
from support.small_run import CROP_PX, DIMENSION, WELL, commit_slide

from fossilray.cli.main import main
from fossilray.core.config import CropsConfig, RunConfig
from fossilray.core.errors import StoreError, UsageError
from fossilray.labels.importing import import_label_round
from fossilray.labels.label_set import LabelSet
from fossilray.labels.load import load_labels
from fossilray.labels.sources import object_of, parse_labels
from fossilray.labels.suggest.selection import (
    Quotas,
    centred_directions,
    select_badge,
    select_k_center,
    select_typical,
)
from fossilray.labels.suggest.strategies import choose, mixed_shares
from fossilray.labels.suggest.suggest import suggest_objects
from fossilray.models.heads import BackboneReference, save_head, train_head
from fossilray.store import RunStore, open_run
from fossilray.store.query.connection import connect, query_table
from fossilray.store.run.run_record import describe_run

OTHER_WELL = "7/11-1"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """Three slides of two wells; an object's genus is whether it is dark."""
    store = begin(tmp_path_factory.mktemp("labelled") / "run")
    for number, (slide_id, count, well) in enumerate(
        (("a-2030", 60, WELL), ("b-2050", 30, WELL), ("c-2080", 25, OTHER_WELL))
    ):
        commit_slide(store, slide_id, count=count, well=well, depth_m=2000.0 + number, seed=number)
    return store


def test_suggestions_filled_in_come_back_as_labels_and_train_a_head(run: RunStore, tmp_path: Path) -> None:
    out, labels, head = tmp_path / "next", tmp_path / "labels", tmp_path / "head.safetensors"
    output = run_command("suggest", run.url, "--out", out, "--limit", 20)
    assert "20 of 115 objects" in output
    rows = read_csv(out / "suggestions.csv")
    assert [int(row["rank"]) for row in rows] == list(range(1, 21))
    assert {row["well"] for row in rows} == {WELL, OTHER_WELL}
    assert {row["guess"] for row in rows} == {""}
    fill_in(out / "suggestions.csv", genus_of(run))
    output = run_command(
        "labels", "import", out / "suggestions.csv", "--run", run.url, "--to", labels, "--annotator", "Ada"
    )
    assert "round 1: 20 labels" in output
    output = run_command(
        "classify", "train", "--labels", labels, "--run", run.url, "--backbone", "run", "--out", head
    )
    assert "20 labelled crops of 2 classes" in output
    again = tmp_path / "again"
    output = run_command(
        "suggest", run.url, "--out", again, "--limit", 10, "--labels", labels, "--head", head
    )
    assert "20 objects have a label already" in output
    new = read_csv(again / "suggestions.csv")
    assert not {row["file"] for row in new} & {row["file"] for row in rows}
    assert {row["guess"] for row in new} <= {"Dark", "Pale"}
    assert all(float(row["distance"]) >= 0 for row in new)


def test_images_sorted_into_folders_come_back_as_labels(run: RunStore, tmp_path: Path) -> None:
    out = tmp_path / "next"
    suggest_objects(run, out, count=12)
    images = sorted((out / "crops").glob("*.jpg"))
    assert len(images) == 12
    for number, image in enumerate(images[:10]):
        folder = out / ("Alnus" if number % 2 else "Betula")
        folder.mkdir(exist_ok=True)
        image.rename(folder / image.name)
    output = run_command("labels", "import", out, "--run", run.url, "--to", tmp_path / "labels")
    assert "round 1: 10 labels" in output
    assert "2 have no label yet" in output
    output = run_command("labels", "show", tmp_path / "labels", "--out", tmp_path / "current.csv")
    assert "after round 1: 10 objects with a label" in output
    standing = read_csv(tmp_path / "current.csv")
    assert {(row["slide_id"], int(row["object_id"])) for row in standing} == {
        object_of(image.name) for image in images[:10]
    }


def test_equal_runs_and_seeds_give_equal_suggestions(run: RunStore, tmp_path: Path) -> None:
    for name in ("one", "two"):
        suggest_objects(run, tmp_path / name, count=15, seed=3)
    ours = [(tmp_path / name / "suggestions.csv").read_bytes() for name in ("one", "two")]
    assert ours[0] == ours[1]


def test_crops_to_be_labelled_have_the_proportions_of_the_fossil(run: RunStore, tmp_path: Path) -> None:
    suggest_objects(run, tmp_path / "next", count=10)
    for row in read_csv(tmp_path / "next" / "suggestions.csv"):
        with Pillow.open(tmp_path / "next" / row["file"]) as image:
            width, height = image.size
        wanted = float(row["width_um"]) / float(row["height_um"])
        assert width / height == pytest.approx(wanted, rel=0.15)


def test_particletrieurs_table_has_full_paths_and_no_guess_as_label(run: RunStore, tmp_path: Path) -> None:
    suggest_objects(run, tmp_path / "next", count=5)
    rows = read_csv(tmp_path / "next" / "particletrieur.csv")
    assert all(Path(row["filename"]).is_absolute() and Path(row["filename"]).is_file() for row in rows)
    assert {"label", "class"}.isdisjoint(rows[0])


def test_a_condition_and_embeddings_of_a_name_are_heeded(run: RunStore, tmp_path: Path) -> None:
    embed(run, "vits", dimension=4)
    report = suggest_objects(run, tmp_path / "next", count=40, embeddings="vits", where="slide_id = 'b-2050'")
    assert (report.objects, report.pool) == (30, 30)
    assert set(report.wells) == {WELL}


def test_a_compacted_dataset_gives_the_same_suggestions_and_takes_labels(
    run: RunStore, tmp_path: Path
) -> None:
    run_command("compact", run.url, "--to", tmp_path / "dataset")
    suggest_objects(run, tmp_path / "one", count=15)
    suggest_objects(open_run(str(tmp_path / "dataset")), tmp_path / "two", count=15)
    ours = [(tmp_path / name / "suggestions.csv") for name in ("one", "two")]
    assert ours[0].read_bytes() == ours[1].read_bytes()
    fill_in(ours[0], genus_of(run))
    found = import_label_round(ours[0], open_run(str(tmp_path / "dataset")), tmp_path / "labels", who="Ada")
    assert found.round is not None
    assert found.round.labels == 15
    assert len(load_labels(tmp_path / "labels", run=run)) == 15


def test_a_run_without_slides_has_nothing_to_suggest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to suggest"):
        suggest_objects(begin(tmp_path / "run"), tmp_path / "next", count=3)


def test_a_project_of_particletrieur_is_read_as_it_shows_it(tmp_path: Path) -> None:
    project = tmp_path / "project.xml"
    project.write_text(
        particletrieur(
            image("images/a-2030-000003.jpg", {"Alnus": 0.4, "Betula": 0.6}),
            image("C:\\crops\\a-2030-000004.jpg", {"Alnus": 1.0}, validated="Grace"),
            image("images/a-2030-000005.jpg", {"unlabeled": 1.0}),
            image("images/a-2030-000006.jpg", {"Alnus": 0.9}, tags=("auto",)),
            image("images/a-2030-000007.jpg", {"Alnus": 0.9}, tags=("auto",), validated="Grace"),
        )
    )
    given = parse_labels(project)
    assert [(one.slide_id, one.object_id, one.occurrence.name, one.who) for one in given.labels] == [
        ("a-2030", 3, "Betula", None),
        ("a-2030", 4, "Alnus", "Grace"),
        ("a-2030", 7, "Alnus", "Grace"),
    ]
    assert (given.unlabelled, given.automatic) == (1, 1)


def test_a_table_of_particletrieur_is_read_even_with_decimal_commas(tmp_path: Path) -> None:
    table = tmp_path / "information.csv"
    table.write_text(
        "id,filename,label,sample,index1,index2,resolution,GUID,labeled_by,validated_by\n"
        "1,/x/a-2030-000003.jpg,Alnus,s,0.000000,0.000000,2.0,g,Ada,Grace\n"
        "2,/x/a-2030-000004.jpg,Betula,s,0,000000,0,000000,2,000000,g,Ada,Grace\n"
        "3,/x/a-2030-000005.jpg,unlabeled,s,0.0,0.0,2.0,g,,\n"
    )
    given = parse_labels(table)
    assert [(one.object_id, one.occurrence.name, one.who) for one in given.labels] == [
        (3, "Alnus", "Grace"),
        (4, "Betula", None),
    ]
    assert given.unlabelled == 1


def test_a_project_with_entities_is_not_read(tmp_path: Path) -> None:
    bomb = tmp_path / "project.xml"
    bomb.write_text('<!DOCTYPE p [<!ENTITY a "aaaa">]><project><images>&a;</images></project>')
    with pytest.raises(UsageError, match="declares entities"):
        parse_labels(bomb)


@pytest.mark.parametrize("content", ["no xml", "<project/>", "<other><images/></other>"])
def test_what_is_no_project_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "p.xml").write_text(content)
    with pytest.raises(UsageError, match="ParticleTrieur project"):
        parse_labels(tmp_path / "p.xml")


def test_labels_that_name_no_object_are_refused_by_name_and_nothing_is_kept(
    run: RunStore, tmp_path: Path
) -> None:
    table = write_table(
        tmp_path / "l.csv", [("a-2030", 1, "Alnus"), ("a-2030", 60, "Alnus"), ("z", 0, "Alnus")]
    )
    with pytest.raises(UsageError, match=r"2 objects .* a-2030 #60 \(line 3\); z #0 \(line 4\)"):
        import_label_round(table, run, tmp_path / "labels", who="Ada")
    assert not (tmp_path / "labels").exists()


def test_images_of_other_names_are_refused_by_name(run: RunStore, tmp_path: Path) -> None:
    (tmp_path / "sorted" / "Alnus").mkdir(parents=True)
    (tmp_path / "sorted" / "Alnus" / "IMG_0001.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match=r"1 labelled images do not name an object: Alnus/IMG_0001.jpg"):
        import_label_round(tmp_path / "sorted", run, tmp_path / "labels", who="Ada")


def test_one_source_that_gives_an_object_two_names_is_refused(run: RunStore, tmp_path: Path) -> None:
    table = write_table(tmp_path / "l.csv", [("a-2030", 1, "Alnus"), ("a-2030", 1, "Betula")])
    with pytest.raises(UsageError, match=r"a-2030 #1 is Alnus \(line 2\) and Betula \(line 3\)"):
        import_label_round(table, run, tmp_path / "labels", who="Ada")


def test_objects_on_which_two_people_disagree_are_listed_and_not_trained_on_until_overridden(
    run: RunStore, tmp_path: Path
) -> None:
    labels = tmp_path / "labels"
    first = write_table(
        tmp_path / "ada.csv", [("a-2030", n, "Alnus" if n % 2 else "Betula") for n in range(8)]
    )
    second = write_table(tmp_path / "grace.csv", [("a-2030", 1, "Betula"), ("a-2030", 2, "Betula")])
    import_label_round(first, run, labels, who="Ada")
    output = run_command("labels", "import", second, "--run", run.url, "--to", labels, "--annotator", "Grace")
    assert "1 objects have conflicting labels" in output
    assert "a-2030 #1: Alnus (Ada), Betula (Grace)" in output
    found = load_labels(labels, run=run)
    assert len(found) == 7
    assert found.findings.unreadable == (("a-2030 #1", "labelled Alnus (Ada), Betula (Grace)"),)
    correction = write_table(tmp_path / "correction.csv", [("a-2030", 1, "Betula")])
    run_command(
        "labels", "import", correction, "--run", run.url, "--to", labels, "--annotator", "Ada", "--override"
    )
    book = LabelSet.open(labels)
    assert not book.labels().conflicts
    assert book.labels().consensus[key_of(run, "a-2030", 1)].occurrence.name == "Betula"
    assert len(book.labels(version=2).conflicts) == 1
    assert len(book.labels(version=1).consensus) == 8


def test_a_persons_later_label_corrects_the_earlier_and_the_same_again_is_no_round(
    run: RunStore, tmp_path: Path
) -> None:
    labels = tmp_path / "labels"
    import_label_round(write_table(tmp_path / "1.csv", [("a-2030", 1, "Alnus")]), run, labels, who="Ada")
    same = import_label_round(
        write_table(tmp_path / "2.csv", [("a-2030", 1, "Alnus")]), run, labels, who="Ada"
    )
    assert (same.round, same.already) == (None, 1)
    other = import_label_round(
        write_table(tmp_path / "3.csv", [("a-2030", 1, "Pinus")]), run, labels, who="Ada"
    )
    assert (other.changed, other.conflicts) == (1, ())
    assert LabelSet.open(labels).labels().consensus[key_of(run, "a-2030", 1)].occurrence.name == "Pinus"


def test_a_withdrawn_label_is_gone_its_rounds_remain_and_the_annotator_may_label_again(
    run: RunStore, tmp_path: Path
) -> None:
    folder = tmp_path / "labels"
    import_label_round(write_table(tmp_path / "1.csv", [("a-2030", 1, "Alnus")]), run, folder, who="Ada")
    import_label_round(write_table(tmp_path / "2.csv", [("a-2030", 1, "Pinus")]), run, folder, who="Ben")
    label_set, key = LabelSet.open(folder), key_of(run, "a-2030", 1)
    ben = label_set.labels().by_object[key][-1]
    origin: dict[str, Any] = {"source": "x", "source_sha256": "", "run": run.url, "run_digest": ""}
    label_set.add([replace(ben, is_withdrawn=True)], **origin)
    assert [label.who for label in label_set.labels().by_object[key]] == ["Ada"]
    assert not label_set.labels().conflicts
    assert key in label_set.labels(version=2).conflicts
    label_set.add([replace(ben, who="Ada", is_withdrawn=True)], **origin)
    assert key not in label_set.labels().by_object
    label_set.add([ben], **origin)
    assert label_set.labels().consensus[key].occurrence.name == "Pinus"


def test_labels_of_a_reprocessed_slide_are_found_by_place(tmp_path: Path) -> None:
    store = begin(tmp_path / "run")
    commit_slide(store, "a-2030", count=12, well=WELL, depth_m=2030.0, seed=0)
    table = write_table(tmp_path / "l.csv", [("a-2030", n, "Alnus" if n % 2 else "Betula") for n in range(6)])
    import_label_round(table, store, tmp_path / "labels", who="Ada")
    reprocessed = begin(tmp_path / "reprocessed")
    commit_slide(reprocessed, "a-2030", count=12, well=WELL, depth_m=2030.0, seed=0)
    found = load_labels(tmp_path / "labels", run=reprocessed)
    assert (len(found), found.findings.moved) == (6, 6)
    import_label_round(table, reprocessed, tmp_path / "labels", who="Ada")
    found = load_labels(tmp_path / "labels", run=reprocessed)
    assert (len(found), found.findings.unreadable) == (6, ())


def test_a_damaged_round_is_named(run: RunStore, tmp_path: Path) -> None:
    table = write_table(tmp_path / "l.csv", [("a-2030", 1, "Alnus")])
    import_label_round(table, run, tmp_path / "labels", who="Ada")
    path = tmp_path / "labels" / "rounds" / "00001.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StoreError, match=r"rounds/00001.parquet .a round of labels. cannot be used"):
        LabelSet.open(tmp_path / "labels").labels()


def test_two_rounds_added_at_once_both_stand(run: RunStore, tmp_path: Path) -> None:
    table = write_table(tmp_path / "l.csv", [("a-2030", 1, "Alnus")])
    import_label_round(table, run, tmp_path / "labels", who="Ada")
    one, two = LabelSet.open(tmp_path / "labels"), LabelSet.open(tmp_path / "labels")
    label = next(iter(one.labels().consensus.values()))
    origin = {"source": "x", "source_sha256": "", "run": run.url, "run_digest": ""}
    assert [book.add([label], **origin).number for book in (one, two)] == [2, 3]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("suggest", "RUN", "--out", "FULL"), "is not empty"),
        (("suggest", "RUN", "--out", "NEW", "--strategy", "badge"), "chooses by the uncertainty of a head"),
        (("suggest", "RUN", "--out", "NEW", "--where", "false"), "there is nothing to suggest"),
        (("suggest", "RUN", "--out", "NEW", "--where", "nonsense"), "nonsense"),
        (("suggest", "RUN", "--out", "NEW", "--labels", "FULL"), "holds no label set"),
        (("suggest", "RUN", "--out", "NEW", "--embeddings", "none"), "no embeddings named none"),
        (("labels", "import", "ABSENT", "--run", "RUN", "--to", "NEW"), "does not exist"),
        (("labels", "import", "FULL", "--run", "RUN", "--to", "NEW"), "holds no <genus>/<image> files"),
        (("labels", "show", "FULL"), "holds no label set"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    run: RunStore,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("something else")
    paths = {"RUN": run.url, "FULL": str(tmp_path / "full"), "NEW": str(tmp_path / "new")}
    paths["ABSENT"] = str(tmp_path / "absent")
    monkeypatch.setattr("sys.argv", ["fossilray", *(paths.get(word, word) for word in arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_labels_never_go_into_a_folder_of_something_else(run: RunStore, tmp_path: Path) -> None:
    table = write_table(tmp_path / "l.csv", [("a-2030", 1, "Alnus")])
    with pytest.raises(UsageError, match="holds other files than labels"):
        import_label_round(table, run, tmp_path, who="Ada")


def test_a_head_of_another_backbone_is_refused(run: RunStore, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    head = train_head(
        rng.normal(size=(20, DIMENSION)).astype(np.float32),
        np.arange(20) % 2,
        ("Alnus", "Betula"),
        kind="logistic",
        backbone=BackboneReference(name="other", sha256="00" * 32),
    )
    save_head(tmp_path / "head.safetensors", head)
    with pytest.raises(UsageError, match="another backbone"):
        suggest_objects(run, tmp_path / "next", count=3, head=head)


def test_far_ones_are_those_of_the_greedy_k_centre_algorithm() -> None:
    rng = np.random.default_rng(4)
    vectors, _ = centred_directions(rng.normal(size=(60, 5)))
    known = vectors[:3]
    quotas = Quotas(np.zeros(57, np.int64), 6)
    chosen = select_k_center(vectors[3:], known, 6, quotas)
    centres = list(known)
    for row in chosen:
        distance = [min(np.linalg.norm(one - centre) for centre in centres) for one in vectors[3:]]
        assert row == int(np.argmax(distance))
        centres.append(vectors[3:][row])


def test_badge_measures_between_the_gradients_themselves() -> None:
    rng = np.random.default_rng(5)
    vectors, _ = centred_directions(rng.normal(size=(40, 6)))
    probability = rng.dirichlet(np.ones(4), 40).astype(np.float32)
    error = probability.copy()
    error[np.arange(40), probability.argmax(axis=1)] -= 1
    gradient = (error[:, :, None] * vectors[:, None, :]).reshape(40, -1)
    rng = np.random.default_rng(8)
    expected = [int((gradient**2).sum(axis=1).argmax())]
    while len(expected) < 10:
        apart = (
            ((gradient[:, None] - gradient[expected][None]) ** 2).sum(axis=2).min(axis=1).astype(np.float64)
        )
        apart[expected] = 0
        draw = rng.random()
        expected.append(int(np.searchsorted(np.cumsum(apart / apart.sum()), draw, side="right")))
    quotas = Quotas(np.zeros(40, np.int64), 10)
    assert select_badge(probability, vectors, 10, quotas, np.random.default_rng(8)) == expected


def test_typical_ones_come_from_clusters_where_nothing_is_known() -> None:
    rng = np.random.default_rng(6)
    centre = np.eye(4, 8) * 5
    label = np.arange(200) % 4
    vectors = (centre[label] + rng.normal(0, 0.3, (200, 8))).astype(np.float32)
    seen, middle = centred_directions(vectors)
    known, _ = centred_directions((centre[:2] + rng.normal(0, 0.1, (2, 8))).astype(np.float32), centre=middle)
    chosen = select_typical(seen, known, 2, Quotas(np.zeros(200, np.int64), 2), seed=0)
    assert sorted(label[chosen].tolist()) == [2, 3]


def test_every_object_is_chosen_once_and_every_strategy_fills_its_count() -> None:
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(50, 6)).astype(np.float32)
    probability = rng.dirichlet(np.ones(3), 50).astype(np.float32)
    well = np.array([0] * 45 + [1] * 5)
    for strategy in ("mixed", "badge", "uncertain", "far", "typical", "random"):
        picks = choose(
            strategy,  # type: ignore[arg-type]
            vectors=vectors,
            known=vectors[:4] + 1,
            probability=probability,
            count=30,
            quotas=Quotas(well, 30),
            seed=1,
        )
        rows = [pick.row for pick in picks]
        assert len(set(rows)) == 30
        assert (well[rows] == 1).sum() == 5
    assert sum(mixed_shares(2).values()) == pytest.approx(1)
    assert mixed_shares(2)["typical"] > mixed_shares(8)["typical"]


def test_one_round_of_chosen_labels_trains_a_better_head_than_a_random_one() -> None:
    from suggest import make, score_strategy

    better = []
    for seed in range(3):
        pool, unseen = make(2500, seed), make(1500, seed, again=True)
        chosen, drawn = (
            score_strategy(pool, unseen, by, start=60, n=60, seed=seed)[0] for by in ("mixed", "random")
        )
        better.append(chosen - drawn)
    assert np.mean(better) > 0


def begin(folder: Path) -> RunStore:
    """A run whose vectors are of a backbone that is known."""
    store = RunStore.open(str(folder))
    config = RunConfig(crops=CropsConfig(size_px=CROP_PX))
    store.create_or_check(describe_run(config, {"detector": "ab" * 32, "embedder/net": "ef" * 32}))
    return store


def genus_of(run: RunStore) -> dict[tuple[str, int], str]:
    table = query_table(connect(run), "SELECT slide_id, object_id, opacity FROM objects")
    return {
        (row["slide_id"], row["object_id"]): "Dark" if row["opacity"] > 0.25 else "Pale"
        for row in table.to_pylist()
    }


def key_of(run: RunStore, slide_id: str, object_id: int) -> tuple[str, int, str]:
    footer = run.footer(slide_id)
    assert footer is not None
    return (slide_id, object_id, footer.attempt)


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def fill_in(path: Path, genera: dict[tuple[str, int], str]) -> None:
    rows = read_csv(path)
    with path.open("w", encoding="utf-8", newline="") as sink:
        table = csv.DictWriter(sink, rows[0].keys())
        table.writeheader()
        for row in rows:
            table.writerow({**row, "genus": genera[row["slide_id"], int(row["object_id"])]})


def write_table(path: Path, rows: list[tuple[str, int, str]]) -> Path:
    lines = [f"{slide_id},{object_id},{genus}" for slide_id, object_id, genus in rows]
    path.write_text("\n".join(["slide_id,object_id,genus", *lines]) + "\n")
    return path


def particletrieur(*images: str) -> str:
    return f'<?xml version="1.0" encoding="UTF-8"?><project version="3.0"><images>{"".join(images)}</images></project>'


def image(filename: str, codes: dict[str, float], *, tags: tuple[str, ...] = (), validated: str = "") -> str:
    named = "".join(
        f"<classification><code>{code}</code><value>{value}</value></classification>"
        for code, value in codes.items()
    )
    listed = "".join(f"<tag>{tag}</tag>" for tag in tags)
    return (
        f"<image><source><filename>{filename}</filename></source><val_by>{validated}</val_by>"
        f'<classifications id="Ada">{named}</classifications><tags>{listed}</tags></image>'
    )
