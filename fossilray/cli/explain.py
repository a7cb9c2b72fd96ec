"""The command that shows why a head names crops as it does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fossilray.cli.options import ConfigOption, SetOption, err, open_store, out, outside_runs

if TYPE_CHECKING:
    from fossilray.analysis.explain.crops import CropsToExplain


def explain(
    head: Annotated[Path, typer.Option(help="File that `fossilray classify train` made.")],
    out_file: Annotated[
        Path, typer.Option("--out", callback=outside_runs, help="Page (.html) or picture (.png) to write.")
    ],
    crops: Annotated[Path | None, typer.Option("--crops", help="Folder of images.")] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels", help="Folder of <class>/<image>, or CSV of labels (of objects: with --run)."
        ),
    ] = None,
    run: Annotated[str | None, typer.Option("--run", help="Run whose objects are meant.")] = None,
    object_: Annotated[
        list[str] | None,
        typer.Option("--object", metavar="SLIDE:ID", help="slide_id and object_id; may be repeated."),
    ] = None,
    where: Annotated[str | None, typer.Option(help="SQL condition on objects of --run.")] = None,
    least_certain: Annotated[
        bool, typer.Option("--least-certain", help="Of these crops the least certain, for two genera each.")
    ] = False,
    confused: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="GENUS GENUS", help="Two genera taken for each other; needs --labels."),
    ] = None,
    genus: Annotated[
        str | None, typer.Option(help="Explain this genus; default: the one that the head gives.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="grad-cam, guided, features (convolutional), rollout, attention (transformers); may be repeated; "
            "default: all that suit the network."
        ),
    ] = None,
    count: Annotated[int, typer.Option("--n", min=1, max=200, help="Most crops on the sheet.")] = 12,
    backbone: Annotated[
        str, typer.Option(help="That the head was taught on: bundled, a file of weights, timm:<name>.")
    ] = "bundled",
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Show why a head names crops as it does: maps of what spoke for a genus, on a sheet."""
    from fossilray.analysis.explain.maps import explain_cases, methods_for, predict
    from fossilray.analysis.explain.open_backbone import load_differentiable, score_label
    from fossilray.analysis.explain.selection import choose_confused, choose_given, choose_uncertain
    from fossilray.analysis.explain.sheet import show_cases, write_explanation_sheet
    from fossilray.core.errors import UsageError
    from fossilray.models.heads.head_file import load_head
    from fossilray.render.contact_sheet import require_sheet_suffix

    require_sheet_suffix(out_file, option="--out")
    if sum((least_certain, confused is not None, genus is not None)) > 1:
        raise UsageError("--least-certain, --confused and --genus each choose what is explained; give one")
    if confused is not None and labels is None:
        raise UsageError("--confused compares what the head says with labels; give --labels")
    known = load_head(head)
    opened = load_differentiable(backbone, known)
    material = _material(
        crops, labels, run, object_, where, head, count, least_certain, config=config, set_=set_
    )
    for name, why in material.unreadable:
        err.print(f"left out: {name}: {why}", markup=False, highlight=False, soft_wrap=True)
    shares = predict(opened, known, material)
    if confused is not None:
        assert material.labels is not None
        choice = choose_confused(shares, known.classes, material.labels, confused, count=count)
    elif least_certain:
        choice = choose_uncertain(shares, count=count)
    else:
        choice = choose_given(shares, known.classes, count=count, genus=genus)
    methods = methods_for(opened, method or (), targets=len(choice.cases[0].targets))
    explained = explain_cases(opened, known, material, choice.cases, methods)
    left_out = f" {material.left_out:,} more were not shown." if material.left_out else ""
    facts = [
        f"Score: {score_label(known)}. Backbone {opened.name}, input {opened.preprocessing.size_px} px.{left_out}",
        "A map shows what moved this head's score. It is no proof that a palynologist's reason lies there, and a head "
        "that was taught on these very crops has seen them before.",
    ]
    write_explanation_sheet(
        show_cases(material, shares, known.classes, explained), choice, out_file, facts=facts
    )
    out.print(
        f"{len(choice.cases)} crops explained by {', '.join(methods)} -> {out_file}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _material(
    crops: Path | None,
    labels: Path | None,
    run: str | None,
    objects: list[str] | None,
    where: str | None,
    head: Path,
    count: int,
    least_certain: bool,
    *,
    config: str | None,
    set_: list[str] | None,
) -> CropsToExplain:
    from fossilray.analysis.explain.crops import (
        is_letterboxed,
        material_of_folder,
        material_of_labels,
        material_of_run,
    )
    from fossilray.core.errors import UsageError
    from fossilray.labels.load import load_labels
    from fossilray.models.heads.head_file import head_digest
    from fossilray.store.query.connection import parse_object_name

    if (objects or where) and (run is None or crops or labels):
        raise UsageError("--object and --where choose objects of --run; leave out --crops and --labels")
    if objects and (where or least_certain):
        raise UsageError("--object names the crops; leave out --where and --least-certain")
    if crops is not None and (labels or run):
        raise UsageError("say what to explain by one of --crops, --labels and --run")
    if crops is not None:
        return material_of_folder(crops)
    if labels is not None:
        store = None if run is None else open_store(run, config, set_)
        labelled = load_labels(labels, run=store)
        of_objects = store is not None and labelled.wells is not None
        return material_of_labels(
            labelled, letterboxed=of_objects and store is not None and is_letterboxed(store)
        )
    if run is None:
        raise UsageError("say what to explain: --crops DIR, --labels DIR or CSV, or --run RUN")
    return material_of_run(
        open_store(run, config, set_),
        head_sha256=head_digest(head),
        count=count,
        objects=[parse_object_name(one) for one in objects or ()],
        where=where,
        least_certain=least_certain,
    )
