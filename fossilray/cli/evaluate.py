"""Commands that teach classifiers from labels, and judge backbones by labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fossilray.cli.evaluate_trained import SupervisedOptions
from fossilray.cli.options import ConfigOption, SetOption, err, open_store, out, outside_runs
from fossilray.core.config.choices import Distance, HeadKind, HoldOutUnit, NoveltyKind
from fossilray.core.text_table import Column, TextTable

if TYPE_CHECKING:
    from fossilray.labels.embed import EmbeddedCrops
    from fossilray.labels.load import LabelledSet, LabelReport

ProtocolName = Literal["martinsen2024", "scampi", "karaderi2021", "liu2022", "certainty"]
LabelsOption = Annotated[
    Path,
    typer.Option(
        "--labels",
        help="Folder of <class>/<image>, or a CSV: path and genus, or slide_id, object_id and genus with --run; or a "
        "label set with --run.",
    ),
]
BackboneOption = Annotated[
    str,
    typer.Option(
        "--backbone",
        help="bundled, a file of weights, timm:NAME, random:NAME (before it learned; random:bundled too), "
        "handcrafted (gradients, colours, shape), or run (the vectors that --run holds).",
    ),
]
RunOption = Annotated[
    str | None, typer.Option("--run", help="Where the objects are that a CSV labels: a local path or s3://…")
]
InputOption = Annotated[
    int | None,
    typer.Option(
        "--input-px", min=16, max=1024, help="Side at which the network sees crops; default: its own."
    ),
]
SeedOption = Annotated[int, typer.Option(help="Of random networks, folds and first weights.")]


def classify_train(
    labels: LabelsOption,
    out_file: Annotated[
        Path, typer.Option("--out", callback=outside_runs, help="Head to write, .safetensors.")
    ],
    backbone: BackboneOption = "bundled",
    head: Annotated[
        HeadKind, typer.Option(help="What tells classes apart; logistic and svm weigh classes alike.")
    ] = "logistic",
    run: RunOption = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Neighbours of knn.")] = 10,
    hold_out: Annotated[
        HoldOutUnit,
        typer.Option(
            help="What is left out whole while the head learns how sure it may be; wells: to be asked of new wells."
        ),
    ] = "crops",
    novelty: Annotated[
        NoveltyKind,
        typer.Option(
            help="How far an object is from all labels: from the nearest, or from centres of genera."
        ),
    ] = "knn",
    input_px: InputOption = None,
    seed: SeedOption = 0,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Teach a classifier on labelled crops, and say how it does on crops left out; `classify run` labels a run."""
    from fossilray.models.heads import head_digest, save_head
    from fossilray.models.heads.uncertainty import describe_uncertainty
    from fossilray.training.heads import train_and_cross_validate

    labelled = _load(labels, run, config, set_)
    described = _describe(labelled, backbone, input_px=input_px, seed=seed)
    with _saying(f"{head} head"):
        trained, judged = train_and_cross_validate(
            labelled, described, kind=head, k=k, seed=seed, over=hold_out, novelty=novelty
        )
    save_head(out_file, trained)
    _print_findings(labelled)
    if judged is None:
        out.print("too few crops of each class to leave some out, so nobody knows how well it does")
    else:
        out.print(
            f"on crops left out, {judged.splits} times a fifth: recall {judged.recall:.3f}, precision "
            f"{judged.precision:.3f}, accuracy {judged.accuracy:.3f}, log loss {judged.log_loss:.3f}",
            highlight=False,
        )
    if trained.meta.certainty is not None:
        out.print(describe_uncertainty(trained), markup=False, highlight=False, soft_wrap=True)
    out.print(
        f"{head} head for {len(trained.classes)} classes, sha256 {head_digest(out_file)[:12]}… -> {out_file}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def evaluate(
    labels: LabelsOption,
    out_dir: Annotated[
        Path, typer.Option("--out", callback=outside_runs, help="Folder for the page, tables and pictures.")
    ],
    protocol: Annotated[
        ProtocolName,
        typer.Option(
            help="martinsen2024: classification; scampi: retrieval; karaderi2021: closed and open sets; liu2022: "
            "transfer learning; certainty: whether what a head says of its own certainty holds."
        ),
    ] = "martinsen2024",
    backbone: BackboneOption = "bundled",
    run: RunOption = None,
    distance: Annotated[
        Distance, typer.Option(help="Of scampi's retrievals; the published one is euclidean.")
    ] = "euclidean",
    splits: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100,
            help="Repetitions; default: 10, of certainty 5, of liu2022 1, of karaderi2021 --train 3.",
        ),
    ] = None,
    maps: Annotated[bool, typer.Option("--maps/--no-maps", help="Draw t-SNE and UMAP.")] = True,
    train: Annotated[
        bool,
        typer.Option(
            "--train",
            help="Of karaderi2021 and liu2022: train anew in every repetition, from --backbone on.",
        ),
    ] = False,
    training: Annotated[
        Path | None, typer.Option("--training", help="Of --train: YAML file of a training's fields.")
    ] = None,
    train_set: Annotated[
        list[str] | None,
        typer.Option("--train-set", help="Of --train: one field, e.g. metric.loss=supcon; may be repeated."),
    ] = None,
    withhold: Annotated[
        list[str] | None,
        typer.Option(
            "--withhold",
            help="Of karaderi2021: classes of the open set, with commas; repeated: further groups.",
        ),
    ] = None,
    withheld: Annotated[
        int | None,
        typer.Option(
            "--withheld", min=2, help="Of karaderi2021: classes of each group drawn; default: 2 in 7."
        ),
    ] = None,
    reduced: Annotated[
        list[int] | None,
        typer.Option(
            "--reduced", min=1, help="Of liu2022: most crops of a class to learn from; may be repeated."
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Of liu2022 --train: deep half and all layers, with and without random crop, on the least --reduced.",
        ),
    ] = False,
    head: Annotated[HeadKind, typer.Option(help="Of certainty: what tells classes apart.")] = "logistic",
    coverage: Annotated[
        float,
        typer.Option(min=0.5, max=0.999, help="Of certainty: how often a set is to hold the right genus."),
    ] = 0.9,
    wrong: Annotated[
        float,
        typer.Option(min=0.001, max=0.9, help="Of certainty: share of wrong calls allowed among those kept."),
    ] = 0.05,
    input_px: InputOption = None,
    seed: SeedOption = 0,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Judge a backbone by labelled crops as a published protocol does: one page, tables as CSV and JSON, pictures."""
    asked = SupervisedOptions(train, training, train_set, withhold, withheld, reduced, compare)
    asked.refuse_strangers(protocol)
    labelled = _load(labels, run, config, set_)
    described = None if train else _describe(labelled, backbone, input_px=input_px, seed=seed)
    with _saying(protocol) as say:

        def show_progress(done: int, total: int) -> None:
            say(f"{protocol}: repetition {done} of {total}")

        if protocol == "karaderi2021" or protocol == "liu2022":  # noqa: PLR1714 - mypy narrows these alone
            found = asked.evaluate(
                labelled,
                described,
                protocol=protocol,
                backbone=backbone,
                out=out_dir,
                labels=str(labels),
                splits=splits,
                maps=maps,
                input_px=input_px,
                seed=seed,
                on_progress=show_progress,
            )
        elif protocol == "certainty":
            from fossilray.evaluation.uncertainty import evaluate_uncertainty

            assert described is not None, "this protocol trains no network"
            found = evaluate_uncertainty(
                labelled,
                described,
                kind=head,
                out=out_dir,
                labels=str(labels),
                splits=5 if splits is None else splits,
                coverage=coverage,
                wrong_share=wrong,
                on_progress=show_progress,
            )
        elif protocol == "scampi":
            from fossilray.evaluation.retrieval import evaluate_retrieval

            assert described is not None, "this protocol trains no network"
            found = evaluate_retrieval(
                labelled,
                described,
                out=out_dir,
                labels=str(labels),
                splits=10 if splits is None else splits,
                distance=distance,
                on_progress=show_progress,
            )
        else:
            from fossilray.evaluation.classification import evaluate_classification

            assert described is not None, "this protocol trains no network"
            found = evaluate_classification(
                labelled,
                described,
                out=out_dir,
                labels=str(labels),
                splits=10 if splits is None else splits,
                maps=maps,
                on_progress=show_progress,
            )
    _print_findings(labelled)
    table = TextTable("figure", Column("value", is_number=True), Column("±", is_number=True))
    for name, value in found.figures.items():
        if not name.endswith(" deviation"):
            spread = found.figures.get(f"{name} deviation")
            table.add_row(name, f"{value:.3f}", "" if spread is None else f"{spread:.3f}")
    out.print(table)
    out.print(f"page: {found.page}", markup=False, highlight=False, soft_wrap=True)


def _load(labels: Path, run: str | None, config: str | None, set_: list[str] | None) -> LabelledSet:
    from fossilray.labels.load import load_labels

    with _saying("labels"):
        return load_labels(labels, run=None if run is None else open_store(run, config, set_))


def _describe(labelled: LabelledSet, backbone: str, *, input_px: int | None, seed: int) -> EmbeddedCrops:
    from fossilray.labels.embed import embed_labelled

    with _saying("vectors"):
        return embed_labelled(labelled, backbone, input_px=input_px, seed=seed)


def _print_findings(labelled: LabelledSet) -> None:
    found: LabelReport = labelled.findings
    lines = [f"{len(labelled)} labelled crops of {len(labelled.crops.classes)} classes"]
    if found.unreadable:
        lines.append(
            f"{len(found.unreadable)} left out: {_few([f'{n}: {why}' for n, why in found.unreadable])}"
        )
    if found.unlabelled:
        lines.append(f"{found.unlabelled} rows have no genus")
    if found.singletons:
        lines.append(f"classes of one crop, never asked about: {_few(found.singletons)}")
    if found.duplicates:
        groups = [" = ".join(group) for group in found.duplicates]
        lines.append(
            f"{len(groups)} pictures there more than once, kept on one side of a split: {_few(groups)}"
        )
    if found.conflicts:
        groups = [" = ".join(group) for group in found.conflicts]
        lines.append(f"{len(groups)} of them under different labels: {_few(groups)}")
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def _few(names: list[str] | tuple[str, ...]) -> str:
    return "; ".join(names[:5]) + (f"; and {len(names) - 5} more" if len(names) > 5 else "")


@contextmanager
def _saying(what: str) -> Iterator[Callable[[str], None]]:
    """Say on stderr what is being done, where somebody watches."""
    with err.status(f"{what} …") as status:
        yield lambda text: status.update(f"{text} …")
