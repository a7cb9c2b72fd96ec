"""Commands that write objects for other programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fossilray.cli.options import (
    LIMIT_HELP,
    ConfigOption,
    EmbeddingsOption,
    PredictionsOption,
    RunArgument,
    SetOption,
    SlidesOption,
    WhereOption,
    open_store,
    outside_runs,
    require_predictions,
)
from fossilray.cli.output import print_line
from fossilray.core.config.choices import SplitBy
from fossilray.core.errors import UsageError
from fossilray.core.text import counted

if TYPE_CHECKING:
    from fossilray.analysis.export.occurrences import OccurrenceSource
    from fossilray.analysis.export.tiles import TileCounts, TileOptions
    from fossilray.store import RunStore

ObjectForm = Literal["geojson", "csv", "imagefolder", "anndata", "vectors"]
ExportForm = Literal[
    "geojson", "csv", "coco", "yolo", "imagefolder", "anndata", "vectors", "dwca", "tilia", "stratabugs"
]

ExportOutOption = Annotated[
    Path,
    typer.Option(
        "--out",
        callback=outside_runs,
        help="Output folder (coco, yolo, imagefolder: a new one), folder or file (geojson), or file: .csv, .h5ad "
        "(anndata), .parquet (vectors), .zip (dwca), .xlsx (tilia).",
    ),
]
ExportFormOption = Annotated[
    ExportForm,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="Output format: geojson opens in QuPath; csv has a row per object; coco and yolo hold images of the "
        "slides with boxes; imagefolder holds crops by genus; anndata and vectors hold embeddings as float32; dwca is "
        "a Darwin Core archive; tilia and stratabugs hold counts of a well by sample and taxon.",
    ),
]
KeepBoundsOption = Annotated[
    bool,
    typer.Option(
        "--keep-bounds",
        help="geojson: keep coordinates in OpenSlide's frame; default: relative to the slide's bounds, as in QuPath.",
    ),
]
TileOption = Annotated[
    int | None,
    typer.Option("--tile-px", min=32, help="coco, yolo: side of an image in pixels; default: 640."),
]
ScaleOption = Annotated[
    float | None, typer.Option("--um-per-px", help="coco, yolo: scale of the images; default: 1.")
]
BackgroundOption = Annotated[
    float | None,
    typer.Option("--background", help="coco, yolo: share of images without objects; default: 0.1."),
]
ValidationOption = Annotated[
    float | None,
    typer.Option(
        "--validation",
        help="yolo: share of images for validation, in whole wells where that comes within 5 points, else in whole "
        "slides; default: 0.2.",
    ),
]
ExportLabelsOption = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        help="Labelled crops of the run, a label set; in dwca, tilia and stratabugs they precede predictions.",
    ),
]
ExportWellOption = Annotated[
    str | None, typer.Option("--well", help="Name of the well, as the catalog has it.")
]
CreatorOption = Annotated[
    str | None,
    typer.Option("--creator", help="dwca: person or organisation that publishes the data set; required."),
]
DatasetTitleOption = Annotated[str, typer.Option("--dataset-title", help="dwca: title of the data set.")]
LicenceOption = Annotated[
    str | None, typer.Option("--licence", help="dwca: licence of the data set, a text or a URL; required.")
]
SplitByOption = Annotated[
    SplitBy | None,
    typer.Option("--split-by", help="yolo: unit of the split, a well or a slide; default: auto."),
]

_FORMS_OF_OPTION: dict[str, tuple[ExportForm, ...]] = {
    "--predictions": (
        *("geojson", "csv", "coco", "yolo", "imagefolder", "anndata"),
        *("dwca", "tilia", "stratabugs"),
    ),
    "--keep-bounds": ("geojson",),
    "--embeddings": ("anndata", "vectors"),
    "--tile-px": ("coco", "yolo"),
    "--um-per-px": ("coco", "yolo"),
    "--background": ("coco", "yolo"),
    "--validation": ("yolo",),
    "--split-by": ("yolo",),
    "--labels": ("dwca", "tilia", "stratabugs"),
    "--well": ("tilia", "stratabugs"),
    "--creator": ("dwca",),
    "--dataset-title": ("dwca",),
    "--licence": ("dwca",),
}


def crops(
    run: RunArgument,
    out_dir: Annotated[
        Path, typer.Option("--out", callback=outside_runs, help="Output folder for the images.")
    ],
    where: WhereOption = None,
    limit: Annotated[int | None, typer.Option("--limit", help=LIMIT_HELP, show_default="no limit")] = None,
    square: Annotated[
        bool,
        typer.Option("--square", help="Write crops as stored, square; default: in the fossil's proportions."),
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Write crops of matching objects as image files."""
    from fossilray.analysis.export.boxes import save_crops

    count = save_crops(open_store(run, config, set_), where=where, out=out_dir, limit=limit, square=square)
    print_line(f"{counted(count, 'crop')} -> {out_dir}")


def export(
    run: RunArgument,
    out_path: ExportOutOption,
    form: ExportFormOption = "geojson",
    where: WhereOption = None,
    slide: SlidesOption = None,
    predictions: PredictionsOption = None,
    keep_bounds: KeepBoundsOption = False,
    embeddings: EmbeddingsOption = None,
    tile_px: TileOption = None,
    um_per_px: ScaleOption = None,
    background: BackgroundOption = None,
    validation: ValidationOption = None,
    split_by: SplitByOption = None,
    labels: ExportLabelsOption = None,
    well: ExportWellOption = None,
    creator: CreatorOption = None,
    dataset_title: DatasetTitleOption = "",
    licence: LicenceOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Export to other programs: boxes, images to train on, embeddings, occurrences or counts."""
    _check_options(
        form,
        {
            "--predictions": predictions,
            "--keep-bounds": keep_bounds or None,
            "--embeddings": embeddings,
            "--tile-px": tile_px,
            "--um-per-px": um_per_px,
            "--background": background,
            "--validation": validation,
            "--split-by": split_by,
            "--labels": labels,
            "--well": well,
            "--creator": creator,
            "--dataset-title": dataset_title or None,
            "--licence": licence,
        },
    )
    request = _Request(open_store(run, config, set_), out_path, where, tuple(slide or ()), predictions)
    if form == "coco":
        request.write_coco(_tile_options(tile_px, um_per_px, background))
    elif form == "yolo":
        request.write_yolo(
            _tile_options(tile_px, um_per_px, background),
            validation=0.2 if validation is None else validation,
            split_by=split_by or "auto",
        )
    elif form == "dwca":
        request.write_darwin_core(labels, dataset_title, creator, licence)
    elif form == "tilia" or form == "stratabugs":  # noqa: PLR1714 (mypy does not narrow by `in`)
        request.write_counts(form, labels, well)
    else:
        request.write_objects(form, embeddings=embeddings, keep_bounds=keep_bounds)


@dataclass(frozen=True)
class _Request:
    """Which objects of which run to write where; one method for each kind of format."""

    store: RunStore
    out: Path
    where: str | None
    slides: tuple[str, ...]
    predictions: str | None

    def write_coco(self, tiles: TileOptions) -> None:
        from fossilray.analysis.export.coco import export_coco

        coco = export_coco(
            self.store, self.out, options=tiles, where=self.where, slides=self.slides, head=self.predictions
        )
        self._print_tiles(coco)
        _print_background(coco.background, coco.images, tiles.background)
        _print_left_out(clipped=coco.clipped, unreadable=coco.unreadable, lost=coco.lost, cut=coco.cut)

    def write_yolo(self, tiles: TileOptions, *, validation: float, split_by: SplitBy) -> None:
        from fossilray.analysis.export.yolo import export_yolo

        yolo = export_yolo(
            self.store,
            self.out,
            options=tiles,
            validation=validation,
            split_by=split_by,
            where=self.where,
            slides=self.slides,
            head=self.predictions,
        )
        written = yolo.tiles
        self._print_tiles(written)
        share = yolo.validation / max(written.images, 1)
        print_line(f"{yolo.validation} images ({share:.1%}) for validation. {yolo.split.explanation}")
        _print_background(written.background, written.images, tiles.background)
        _print_left_out(
            clipped=written.clipped, unreadable=written.unreadable, lost=written.lost, cut=written.cut
        )

    def _print_tiles(self, written: TileCounts) -> None:
        print_line(
            f"{written.objects} objects as {written.boxes} boxes in {written.images} images, {written.background} of "
            f"them without objects -> {self.out}"
        )

    def write_darwin_core(
        self, labels: Path | None, title: str, creator: str | None, licence: str | None
    ) -> None:
        from fossilray.analysis.export.darwin_core import DatasetDescription, export_darwin_core

        if not creator or not licence:
            raise UsageError(
                "a Darwin Core archive states who publishes it and under which licence; give --creator and --licence"
            )
        description = DatasetDescription(title or f"Microfossils of {self.store.url}", creator, licence)
        written = export_darwin_core(self._occurrences(labels), self.out, description)
        print_line(f"{counted(written.objects, 'occurrence')} -> {self.out}")
        _print_left_out(without_genus=written.without_genus)

    def write_counts(
        self, form: Literal["tilia", "stratabugs"], labels: Path | None, well: str | None
    ) -> None:
        from fossilray.analysis.export.count_matrix import count_taxa
        from fossilray.analysis.export.stratabugs import write_stratabugs
        from fossilray.analysis.export.tilia import write_tilia

        if well is None:
            raise UsageError(f"--format {form} holds one well; name it with --well")
        matrix = count_taxa(self._occurrences(labels), well)
        write = write_tilia if form == "tilia" else write_stratabugs
        write(matrix, self.out)
        print_line(
            f"{counted(matrix.objects, 'object')} of {counted(len(matrix.samples), 'sample')} in "
            f"{len(matrix.taxa)} taxa, named by {matrix.basis} -> {self.out}"
        )
        _print_left_out(without_genus=matrix.unnamed)

    def _occurrences(self, labels: Path | None) -> OccurrenceSource:
        from fossilray.analysis.export.occurrences import OccurrenceSource

        return OccurrenceSource(
            self.store, labels=labels, head=self.predictions, where=self.where, slides=self.slides
        )

    def write_objects(
        self,
        form: ObjectForm,
        *,
        embeddings: str | None,
        keep_bounds: bool,
    ) -> None:
        from fossilray.analysis.export.anndata import export_anndata
        from fossilray.analysis.export.boxes import export_objects
        from fossilray.analysis.export.image_folder import export_image_folder
        from fossilray.analysis.export.vectors import export_vectors

        store, out, where, slides, head = self.store, self.out, self.where, self.slides, self.predictions
        if form == "imagefolder":
            require_predictions(head, because="an image folder has a folder for each predicted genus")
            written = export_image_folder(store, out, head=head, where=where, slides=slides)
        elif form == "anndata":
            written = export_anndata(store, out, where=where, slides=slides, head=head, embeddings=embeddings)
        elif form == "vectors":
            written = export_vectors(store, out, where=where, slides=slides, embeddings=embeddings)
        else:
            written = export_objects(
                store, out, form=form, where=where, slides=slides, head=head, subtract_bounds=not keep_bounds
            )
        print_line(f"{counted(written.objects, 'object')} -> {out}")
        _print_left_out(
            clipped=written.clipped,
            without_pixels=written.without_pixels,
            without_genus=written.without_genus,
        )


def _check_options(form: ExportForm, given: Mapping[str, object]) -> None:
    for option, value in given.items():
        forms = _FORMS_OF_OPTION[option]
        if value is not None and form not in forms:
            raise UsageError(
                f"{option} applies to --format {', '.join(forms)}, and the format is {form}; leave it out"
            )


def _tile_options(tile_px: int | None, um_per_px: float | None, background: float | None) -> TileOptions:
    from fossilray.analysis.export.tiles import TileOptions

    default = TileOptions()
    return TileOptions(
        tile_px=default.tile_px if tile_px is None else tile_px,
        um_per_px=default.um_per_px if um_per_px is None else um_per_px,
        background=default.background if background is None else background,
    )


def _print_background(background: int, images: int, requested: float) -> None:
    """Print a line where the share of images without objects is more than 5 points from the requested one."""
    reached = background / max(images, 1)
    if images and abs(reached - requested) > 0.05:
        print_line(
            f"requested {requested:.0%} of images without objects, reached {reached:.0%}: the slides have no more such "
            "tiles, or there are too few images for that share"
        )


def _print_left_out(**counts: int) -> None:
    reasons = {
        "clipped": "boxes reached beyond the scanned area and end at its edge",
        "without_pixels": "objects have no embedding because their pixels could not be read",
        "without_genus": "objects have no genus in these predictions and are left out",
        "unreadable": "images are left out because the slide could not be read there",
        "lost": "objects are in no image for that reason",
        "cut": "objects are larger than an image, and their boxes end at its edge",
    }
    for name, count in counts.items():
        if count:
            print_line(f"{count} {reasons[name]}")
