"""Commands about label sets: import of labels, export, their contents, and their state beside a run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fossilray.cli.options import (
    OBJECTS_RUN_HELP,
    AnnotatorOption,
    ConfigOption,
    ObjectsOption,
    SetOption,
    login,
    open_store,
    outside_runs,
)
from fossilray.cli.output import out, print_line, working
from fossilray.core.config.choices import PredictedNames
from fossilray.core.text_table import TextColumn, TextTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fossilray.labels.importing import ImportReport
    from fossilray.labels.label import Label
    from fossilray.labels.label_set import Conflict


_MAX_CONFLICTS = 20

LabelSetArgument = Annotated[
    Path,
    typer.Argument(metavar="LABELS", help="Folder of a label set, which `fossilray labels import` made."),
]
RoundOption = Annotated[
    int | None,
    typer.Option("--round", min=1, help="Show the label set after this round; default: after the last."),
]


def import_labels(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="Folder of <taxon>/<image>, table (.csv, .xlsx, .ods, .parquet) of slide_id, object_id and taxon or "
            "of images and names, ParticleTrieur project (.xml), or another label set.",
        ),
    ],
    run: Annotated[str, typer.Option("--run", help=OBJECTS_RUN_HELP)],
    to: Annotated[Path, typer.Option("--to", help="Create or extend the label set in this folder.")],
    annotator: AnnotatorOption = None,
    override: Annotated[
        bool, typer.Option("--override", help="Override all earlier labels of the same objects.")
    ] = False,
    predicted: Annotated[
        PredictedNames,
        typer.Option(
            "--predicted",
            help="Names that a classifier predicted: refuse the source, leave them out, or import them, because a "
            "person has looked at each (checked).",
        ),
    ] = "refuse",
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            "--vocabulary",
            help="Taxonomy (.csv, .xlsx, .ods, .parquet, .yaml) with the only names to accept, in its spelling.",
        ),
    ] = None,
    same: Annotated[
        list[str] | None,
        typer.Option(
            "--same",
            metavar="OLD=NEW",
            help="Import a name as another one; a name as itself is kept beside other spellings; may be repeated.",
        ),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Import labels into a label set as a new round, all or nothing, and list objects with conflicting labels."""
    from fossilray.labels.importing import import_label_round
    from fossilray.labels.spelling import read_spelling

    spelling = read_spelling(vocabulary, same or [])
    store = open_store(run, config, set_)
    with working("labels"):
        report = import_label_round(
            source,
            store,
            to,
            who=annotator or login(),
            overrides=override,
            predicted=predicted,
            spelling=spelling,
        )
    _print_import(report, source, to)


def _print_import(report: ImportReport, source: Path, to: Path) -> None:
    if report.round is None:
        print_line(f"nothing new in {source}: all {report.already} labels are in {to} already")
    else:
        print_line(f"round {report.round.number}: {report.round.labels} labels -> {to}")
        if report.already:
            print_line(f"{report.already} more were there already")
        if report.changed:
            print_line(f"{report.changed} of them correct earlier ones of the same annotator")
    if report.unlabelled:
        print_line(f"{report.unlabelled} have no label yet")
    if report.automatic:
        print_line(f"{report.automatic} were labelled by ParticleTrieur itself and not validated; left out")
    if report.predicted:
        print_line(f"{report.predicted} names were predicted and not changed; left out")
    if report.missed:
        print_line(f"{report.missed} are of objects that the detector missed")
    _print_matches(report.moved, report.without)
    _print_conflicts(report.conflicts)
    _print_situations(report.situations)


def show(
    labels: LabelSetArgument,
    round_: RoundOption = None,
    out_file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            callback=outside_runs,
            help="Output file (.csv) for the current labels: slide_id, object_id, genus, who.",
        ),
    ] = None,
) -> None:
    """Show a label set: its rounds, its names, and objects with conflicting labels."""
    from fossilray.labels.current import write_current_labels
    from fossilray.labels.label_set import LabelSet

    label_set = LabelSet.open(labels)
    current = label_set.labels(version=round_)
    rounds = TextTable("round", "at (UTC)", TextColumn("labels", is_number=True), "from", "")
    for record in label_set.rounds()[: current.version]:
        rounds.add_row(
            str(record.number),
            record.at[:19],
            str(record.labels),
            record.source,
            "overrides" if record.overrides else "",
        )
    out.print(rounds)
    names = TextTable("genus", TextColumn("labels", is_number=True))
    counted = Counter(label.occurrence.name or "(no taxon)" for label in current.consensus.values())
    for name, count in sorted(counted.items()):
        names.add_row(name, str(count))
    out.print(names)
    _print_spellings(current.consensus.values())
    _print_fields(current.consensus.values())
    chosen = Counter(label.chosen_by for label in current.consensus.values() if label.chosen_by)
    for way, count in sorted(chosen.items()):
        print_line(f"{count} were chosen at random, by {way}")
    print_line(f"after round {current.version}: {len(current.consensus)} objects with a label")
    _print_conflicts(list(current.conflicts.values()))
    _print_situations(current.situations)
    if out_file is not None:
        write_current_labels(current, out_file)
        print_line(f"-> {out_file}")


def export_set(
    labels: LabelSetArgument,
    out_file: Annotated[
        Path,
        typer.Option(
            "--out",
            callback=outside_runs,
            help="Output file (.csv, .xlsx, .ods or .parquet) for the current labels of all annotators.",
        ),
    ],
    round_: RoundOption = None,
) -> None:
    """Write all fields of the current labels of all annotators; `fossilray labels import` reads the table back."""
    from fossilray.labels.exporting import export_labels
    from fossilray.labels.label_set import LabelSet

    count = export_labels(LabelSet.open(labels).labels(version=round_), out_file)
    print_line(f"{count} labels -> {out_file}")


def withdraw(
    labels: LabelSetArgument,
    run: Annotated[str, typer.Option("--run", help=OBJECTS_RUN_HELP)],
    object_: ObjectsOption = None,
    given_in: Annotated[
        int | None,
        typer.Option(
            "--given-in",
            min=1,
            help="Withdraw the current labels of this round, by all annotators unless --annotator names one.",
        ),
    ] = None,
    annotator: AnnotatorOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Withdraw labels of objects, or of a whole round, as a new round; the history keeps them."""
    from fossilray.core.slide_names import parse_object_name
    from fossilray.labels.withdrawal import withdraw_labels

    record = withdraw_labels(
        labels,
        open_store(run, config, set_),
        who=annotator or (None if given_in is not None else login()),
        objects=[parse_object_name(name) for name in object_ or []],
        given_in=given_in,
    )
    print_line(f"round {record.number}: {record.labels} labels withdrawn -> {labels}")


def status_in_run(
    labels: LabelSetArgument,
    run: Annotated[str, typer.Option("--run", help=OBJECTS_RUN_HELP)],
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Compare a label set with a run: labels of its objects, labels matched by position, and unmatched ones."""
    from fossilray.labels.current import labels_of_run

    store = open_store(run, config, set_)
    with working("labels"):
        of_run = labels_of_run(labels, store)
    print_line(
        f"{len(of_run.labelled)} objects of {store.url} have a label, {len(of_run.current)} of them a class"
    )
    print_line(f"{of_run.matches.exact} were labelled in this run")
    _print_matches(len(of_run.matches.moved), of_run.matches.reasons)
    for reason, count in of_run.unnamed.items():
        print_line(f"{count} are {reason}")
    _print_conflicts(list(of_run.merged.conflicts.values()))
    _print_situations(of_run.merged.situations)


def _print_matches(moved: int, without: Mapping[str, int]) -> None:
    from fossilray.labels.label_set import MATCH_IOU

    if moved:
        print_line(
            f"{moved} of other attempts or runs, or missed, were found by position (IoU of at least {MATCH_IOU:g})"
        )
    for reason, count in without.items():
        print_line(f"{count} have no partner in the run: {reason}")


def _print_fields(labels: Iterable[Label]) -> None:
    """Print how many labels have each of the fields beside the name."""
    counted: Counter[str] = Counter()
    for label in labels:
        stated = label.occurrence
        words = (
            stated.qualifier,
            stated.situation,
            stated.specimen,
            "unsure" if stated.is_unsure else None,
            "missed by the detector" if label.is_missed else None,
        )
        counted.update(filter(None, words))
    if counted:
        print_line(", ".join(f"{word}: {count}" for word, count in sorted(counted.items())))


def _print_spellings(labels: Iterable[Label]) -> None:
    """Print which names differ in their spelling only."""
    from fossilray.labels.spelling import spellings_of

    for spelled in spellings_of(label.occurrence.taxon for label in labels):
        names = ", ".join(f"{name} ({number})" for name, number in spelled)
        print_line(f"one name in several spellings, a class under the first: {names}")


def _print_conflicts(conflicts: Sequence[Conflict]) -> None:
    _print_listed(
        conflicts,
        "objects have conflicting labels and are left out of training until the right one is imported with --override:",
    )


def _print_situations(situations: Sequence[Conflict]) -> None:
    _print_listed(situations, "objects have labels of different situations, which do not affect training:")


def _print_listed(conflicts: Sequence[Conflict], text: str) -> None:
    if not conflicts:
        return
    print_line(f"{len(conflicts)} {text}")
    for conflict in conflicts[:_MAX_CONFLICTS]:
        print_line(f"  {conflict.text}")
    if len(conflicts) > _MAX_CONFLICTS:
        print_line(f"  and {len(conflicts) - _MAX_CONFLICTS} more")
