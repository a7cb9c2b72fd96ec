"""The command that identifies fossils in images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fossilray.cli.labelled import LABELS_HELP
from fossilray.cli.options import (
    BackboneOption,
    ConfigOption,
    CoverageOption,
    EmbeddingsOption,
    JsonOption,
    MppOption,
    NamingHeadOption,
    NoveltyPOption,
    ObjectsRunOption,
    SearchedIndexOption,
    SetOption,
    open_store,
    settings,
)
from fossilray.cli.output import print_line, warn, working, write_rows
from fossilray.core.config.choices import ImageView
from fossilray.core.errors import SlideError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from fossilray.analysis.identify.identifier import Identifier
    from fossilray.analysis.identify.result import ImageIdentification, NearSpecimen

ImagesArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGE...",
        help="Photographs (JPEG, PNG, BMP, TIFF, WebP): of one fossil, or a field of view.",
    ),
]
ViewOption = Annotated[
    ImageView,
    typer.Option(
        "--view",
        help="Content of each image: one fossil (crop), or a field of view that the detector cuts (field); auto "
        "takes an image that one object fills for a crop.",
    ),
]


def identify(
    images: ImagesArgument,
    head: NamingHeadOption = None,
    labels: Annotated[Path | None, typer.Option("--labels", help=LABELS_HELP)] = None,
    run: ObjectsRunOption = None,
    index: SearchedIndexOption = None,
    embeddings: EmbeddingsOption = None,
    view: ViewOption = "auto",
    mpp: MppOption = None,
    coverage: CoverageOption = 0.9,
    novelty_p: NoveltyPOption = 0.01,
    backbone: BackboneOption = "bundled",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Identify fossils in photographs: taxa with their shares, or like nothing labelled, and the nearest specimens."""
    from fossilray.analysis.identify.identifier import Identifier
    from fossilray.analysis.identify.opening import open_specimens
    from fossilray.analysis.identify.photograph import read_photograph
    from fossilray.analysis.search.search import SearchIndex

    with working("networks and specimens"):
        opened = open_specimens(
            run=None if run is None else open_store(run, config, set_),
            index=None if index is None else SearchIndex.open(index, settings(config, set_).store),
            labels=labels,
            embeddings=embeddings,
            backbone=backbone,
        )
        identifier = Identifier(
            backbone=backbone,
            head=head,
            specimens=opened.specimens,
            crops=opened.crops,
            coverage=coverage,
            novelty_p=novelty_p,
        )
    results: list[ImageIdentification] = []
    failed: list[tuple[str, str]] = []
    for image in images:
        try:
            with working(str(image)):
                photograph = read_photograph(image, name=str(image), mpp=mpp)
                results.append(identifier.identify(photograph, view=view).result)
        except (UsageError, SlideError) as error:
            if len(images) == 1:
                raise
            failed.append((str(image), str(error)))
    if as_json:
        record = {
            "images": [result.model_dump(mode="json") for result in results],
            "failed": [{"name": name, "reason": reason} for name, reason in failed],
        }
        print_line(json.dumps(record, ensure_ascii=False))
    else:
        shared = set.intersection(*(set(result.notes) for result in results)) if results else set()
        for result in results:
            _print(result, shared)
        for note in (note for result in results[:1] for note in result.notes if note in shared):
            warn(f"note: {note}")
        _print_networks(identifier)
    for _, reason in failed:
        warn(f"left out: {reason}")
    raise typer.Exit(4 if failed else 0)


def _print(result: ImageIdentification, shared: set[str]) -> None:
    scale = (
        "um per px unknown"
        if result.um_per_px is None
        else f"{result.um_per_px:g} um per px ({result.um_per_px_from})"
    )
    kind = "one fossil" if result.view == "crop" else f"field of view with {len(result.objects)} objects"
    print_line(f"{result.name}: {kind}, {result.width} x {result.height} px, {scale}")
    if result.objects:
        write_rows(_table(result), "table", None)
    for note in result.notes:
        if note not in shared:
            warn(f"note: {note}")


def _table(result: ImageIdentification) -> pa.Table:
    """Return one row for each object, in words."""
    import pyarrow as pa

    from fossilray.analysis.identify.naming import describe_naming

    rows = [
        {
            "object": each.number,
            "at": f"{each.box[0]},{each.box[1]}",
            "size": f"{each.width_um:g} x {each.height_um:g} um"
            if each.width_um is not None
            else f"{each.box[2] - each.box[0]} x {each.box[3] - each.box[1]} px",
            "score": each.detector_score,
            "identification": describe_naming(each, has_head=result.head is not None),
            "nearest_labelled": _specimen(each.nearest_labelled),
            "nearest_unlabelled": _specimen(each.nearest_unlabelled),
        }
        for each in result.objects
    ]
    table = pa.Table.from_pylist(rows)
    empty = [name for name in table.column_names if table[name].null_count == table.num_rows]
    return table.drop_columns(empty)


def _specimen(near: tuple[NearSpecimen, ...]) -> str | None:
    """Return the nearest specimen with its similarity, name and origin."""
    if not near:
        return None
    first = near[0]
    name = first.name or first.predicted
    origin = first.file or f"{first.slide_id}:{first.object_id}"
    depth = "" if first.depth_m is None else f" {first.depth_m:,.10g} m"
    where = f"{first.well}{depth}" if first.well else ""
    who = f"by {first.who}" if first.who else ""
    words = [f"{first.similarity:.2f}", name or "", who, origin, where]
    return " ".join(word for word in words if word)


def _print_networks(identifier: Identifier) -> None:
    used = [("backbone", identifier.backbone), ("detector", identifier.detector), ("head", identifier.head)]
    print_line(
        "; ".join(f"{kind} {each.name} sha256 {each.sha256[:12]}…" for kind, each in used if each is not None)
    )
