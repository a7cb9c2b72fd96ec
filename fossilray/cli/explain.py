"""The command that explains a head's predictions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fossilray.cli.labelled import LABELS_HELP
from fossilray.cli.options import (
    LIMIT_HELP,
    BackboneOption,
    ConfigOption,
    CropsOption,
    HeadOption,
    ObjectsOption,
    ObjectsRunOption,
    SetOption,
    WhereOption,
    open_store,
    outside_runs,
)
from fossilray.cli.output import print_line, warn
from fossilray.core.errors import UsageError

if TYPE_CHECKING:
    from fossilray.analysis.explain.crops import CropsToExplain

SheetFileOption = Annotated[
    Path,
    typer.Option("--out", callback=outside_runs, help="Output file: a page (.html) or a picture (.png)."),
]
_LabelsOption = Annotated[Path | None, typer.Option("--labels", help=LABELS_HELP)]
HighestEntropyOption = Annotated[
    bool,
    typer.Option(
        "--highest-entropy",
        help="Choose the crops with the highest entropy, and explain two genera for each.",
    ),
]
ConfusedOption = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--confused",
        metavar="GENUS GENUS",
        help="Choose crops of either genus that the head predicts as the other; needs --labels.",
    ),
]
_GenusOption = Annotated[
    str | None, typer.Option("--genus", help="Genus to explain; default: the predicted one.")
]
AttributionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--attribution",
        help="Attribution method: grad-cam, guided, features (convolutional networks), rollout, attention "
        "(transformers); may be repeated; default: all that suit the network.",
    ),
]
_LimitOption = Annotated[int, typer.Option("--limit", min=1, max=200, help=LIMIT_HELP)]


@dataclass(frozen=True)
class _Selection:
    """Which crops to explain, as the options name them."""

    crops: Path | None
    labels: Path | None
    run: str | None
    objects: list[str] | None
    where: str | None
    highest_entropy: bool
    confused: tuple[str, str] | None
    genus: str | None
    limit: int

    def check(self) -> None:
        """Raises:
        UsageError: the options contradict each other, or none names crops.
        """
        if sum((self.highest_entropy, self.confused is not None, self.genus is not None)) > 1:
            raise UsageError("--highest-entropy, --confused and --genus exclude each other; give one of them")
        if self.confused is not None and self.labels is None:
            raise UsageError("--confused compares predictions with labels; give --labels")
        if (self.objects or self.where) and (self.run is None or self.crops or self.labels):
            raise UsageError("--object and --where choose objects of --run; leave out --crops and --labels")
        if self.objects and (self.where or self.highest_entropy):
            raise UsageError("--object names the crops; leave out --where and --highest-entropy")
        if self.crops is not None and (self.labels or self.run):
            raise UsageError("name the crops to explain by one of --crops, --labels and --run")
        if self.crops is None and self.labels is None and self.run is None:
            raise UsageError(
                "no crops to explain are named; give --crops DIR, --labels FOLDER or TABLE, or --run RUN"
            )


def explain(
    head: HeadOption,
    out_file: SheetFileOption,
    crops: CropsOption = None,
    labels: _LabelsOption = None,
    run: ObjectsRunOption = None,
    object_: ObjectsOption = None,
    where: WhereOption = None,
    highest_entropy: HighestEntropyOption = False,
    confused: ConfusedOption = None,
    genus: _GenusOption = None,
    attribution: AttributionOption = None,
    limit: _LimitOption = 12,
    backbone: BackboneOption = "bundled",
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Explain predictions: Grad-CAM or attention maps for chosen crops, as a contact sheet."""
    from fossilray.analysis.explain.backbone import load_differentiable, score_label
    from fossilray.analysis.explain.maps import explain_targets, methods_for, predict
    from fossilray.analysis.explain.selection import select_confused, select_first, select_uncertain
    from fossilray.analysis.explain.sheet import sheet_rows, write_explanation_sheet
    from fossilray.models.heads.head_file import load_head
    from fossilray.render.contact_sheet import require_sheet_suffix

    require_sheet_suffix(out_file, option="--out")
    selection = _Selection(crops, labels, run, object_, where, highest_entropy, confused, genus, limit)
    selection.check()
    classifier = load_head(head)
    network = load_differentiable(backbone, classifier)
    crops_to_explain = _load_crops(selection, head, config=config, set_=set_)
    for name, reason in crops_to_explain.unreadable:
        warn(f"left out: {name}: {reason}")
    probabilities = predict(network, classifier, crops_to_explain)
    classes = classifier.classes
    if confused is not None:
        assert crops_to_explain.labels is not None
        selected = select_confused(probabilities, classes, crops_to_explain.labels, confused, count=limit)
    elif highest_entropy:
        selected = select_uncertain(probabilities, count=limit)
    else:
        selected = select_first(probabilities, classes, count=limit, genus=genus)
    methods = methods_for(network, attribution or (), classes=len(selected.targets[0].classes))
    explanations = explain_targets(network, classifier, crops_to_explain, selected.targets, methods)
    left_out = (
        f" {crops_to_explain.left_out:,} more crops are not shown." if crops_to_explain.left_out else ""
    )
    notes = [
        f"Score: {score_label(classifier)}. Backbone {network.name}, input {network.preprocessing.size_px} px."
        + left_out,
        "A map shows where the score comes from. It does not show that the region is diagnostic of the genus. Crops "
        "that the head was trained on are not independent examples.",
    ]
    rows = sheet_rows(crops_to_explain, probabilities, classes, explanations)
    write_explanation_sheet(rows, selected, out_file, notes=notes)
    print_line(f"{len(selected.targets)} crops explained by {', '.join(methods)} -> {out_file}")


def _load_crops(
    selection: _Selection, head: Path, *, config: str | None, set_: list[str] | None
) -> CropsToExplain:
    from fossilray.analysis.explain.crops import (
        crops_from_folder,
        crops_from_labels,
        crops_from_run,
    )
    from fossilray.analysis.export.boxes import has_letterboxed_crops
    from fossilray.core.slide_names import parse_object_name
    from fossilray.labels.load import load_labels
    from fossilray.models.heads.head_file import head_digest

    if selection.crops is not None:
        return crops_from_folder(selection.crops)
    store = None if selection.run is None else open_store(selection.run, config, set_)
    if selection.labels is not None:
        labelled = load_labels(selection.labels, run=store)
        of_objects = store is not None and labelled.wells is not None
        return crops_from_labels(
            labelled, letterboxed=of_objects and store is not None and has_letterboxed_crops(store)
        )
    assert store is not None, "checked with the options"
    return crops_from_run(
        store,
        head_sha256=head_digest(head),
        count=selection.limit,
        objects=[parse_object_name(name) for name in selection.objects or ()],
        where=selection.where,
        highest_entropy=selection.highest_entropy,
    )
