"""Commands that write objects for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fossilray.cli.options import ConfigOption, RunArgument, SetOption, open_store, out, outside_runs
from fossilray.core.config.choices import SplitBy
from fossilray.core.text import counted

ExportForm = Literal["geojson", "csv", "coco", "yolo", "imagefolder", "anndata", "vectors"]
_FORMS_OF_OPTION: dict[str, tuple[ExportForm, ...]] = {
    "--head": ("geojson", "csv", "coco", "yolo", "imagefolder", "anndata"),
    "--keep-bounds": ("geojson",),
    "--embeddings": ("anndata", "vectors"),
    "--tile-px": ("coco", "yolo"),
    "--um-per-px": ("coco", "yolo"),
    "--background": ("coco", "yolo"),
    "--validation": ("yolo",),
    "--split-by": ("yolo",),
}


def crops(
    run: RunArgument,
    out_dir: Annotated[Path, typer.Option("--out", callback=outside_runs, help="Folder for the images.")],
    where: Annotated[str, typer.Option(help='SQL condition on objects, e.g. "width_um > 50".')] = "true",
    limit: Annotated[int | None, typer.Option(help="Most images to write.")] = None,
    square: Annotated[
        bool,
        typer.Option("--square", help="The square that is stored; default: the proportions of the fossil."),
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Write matching crops as image files."""
    from fossilray.analysis.export.boxes import save_crops

    count = save_crops(open_store(run, config, set_), where=where, out=out_dir, limit=limit, square=square)
    _print(f"{counted(count, 'crop')} -> {out_dir}")


def export(
    run: RunArgument,
    out_path: Annotated[
        Path,
        typer.Option(
            "--out",
            callback=outside_runs,
            help="New folder (coco, yolo, imagefolder), folder or file (geojson), or file: .csv, .h5ad of anndata, "
            ".parquet of vectors.",
        ),
    ],
    form: Annotated[
        ExportForm,
        typer.Option(
            "--format",
            help="geojson opens in QuPath; coco and yolo cut images from the slides; imagefolder holds crops by genus; "
            "anndata and vectors hold embeddings as float32.",
        ),
    ] = "geojson",
    where: Annotated[str, typer.Option(help="SQL condition on objects.")] = "true",
    slide: Annotated[str | None, typer.Option(help="One slide_id.")] = None,
    head: Annotated[
        str | None,
        typer.Option("--head", help="Name of predictions of `fossilray classify run` to write along."),
    ] = None,
    keep_bounds: Annotated[
        bool,
        typer.Option(
            "--keep-bounds",
            help="geojson: coordinates in OpenSlide's frame; default subtracts the bounds as QuPath does.",
        ),
    ] = False,
    embeddings: Annotated[
        str | None,
        typer.Option(help="anndata, vectors: vectors of `fossilray embed` by name; default: the run's own."),
    ] = None,
    tile_px: Annotated[
        int | None, typer.Option(min=32, help="coco, yolo: side of an image; default 640.")
    ] = None,
    um_per_px: Annotated[
        float | None, typer.Option(help="coco, yolo: scale of the images; default 1.")
    ] = None,
    background: Annotated[
        float | None,
        typer.Option(help="coco, yolo: share of the images that show no object; default 0.1."),
    ] = None,
    validation: Annotated[
        float | None,
        typer.Option(
            help="yolo: share of the images for `val`, whole wells where that comes within 5 points, else whole "
            "slides; default 0.2."
        ),
    ] = None,
    split_by: Annotated[
        SplitBy | None, typer.Option(help="yolo: keep whole wells apart, or whole slides; default auto.")
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Write objects for other programs: boxes, images to train on, or vectors."""
    from fossilray.analysis.export.anndata import export_anndata
    from fossilray.analysis.export.boxes import export_objects
    from fossilray.analysis.export.coco import export_coco
    from fossilray.analysis.export.image_folder import export_image_folder
    from fossilray.analysis.export.tiles import TileOptions
    from fossilray.analysis.export.vectors import export_vectors
    from fossilray.analysis.export.yolo import export_yolo
    from fossilray.core.errors import UsageError

    _refuse_strangers(
        form,
        {
            "--head": head,
            "--keep-bounds": keep_bounds or None,
            "--embeddings": embeddings,
            "--tile-px": tile_px,
            "--um-per-px": um_per_px,
            "--background": background,
            "--validation": validation,
            "--split-by": split_by,
        },
    )
    store = open_store(run, config, set_)
    usual = TileOptions()
    options = TileOptions(
        tile_px=usual.tile_px if tile_px is None else tile_px,
        um_per_px=usual.um_per_px if um_per_px is None else um_per_px,
        background=usual.background if background is None else background,
    )
    match form:
        case "coco":
            coco = export_coco(store, out_path, options=options, where=where, slide=slide, head=head)
            _print(_tiles_line(coco.objects, coco.boxes, coco.images, coco.background, out_path))
            _print_background(coco.background, coco.images, options.background)
            _print_left_out(clipped=coco.clipped, unreadable=coco.unreadable, lost=coco.lost, cut=coco.cut)
        case "yolo":
            yolo = export_yolo(
                store,
                out_path,
                options=options,
                validation=0.2 if validation is None else validation,
                split_by=split_by or "auto",
                where=where,
                slide=slide,
                head=head,
            )
            _print(_tiles_line(yolo.objects, yolo.boxes, yolo.images, yolo.background, out_path))
            share = yolo.validation / max(yolo.images, 1)
            _print(f"{yolo.validation} images ({share:.1%}) to validate on. {yolo.split.why}")
            _print_background(yolo.background, yolo.images, options.background)
            _print_left_out(clipped=yolo.clipped, unreadable=yolo.unreadable, lost=yolo.lost, cut=yolo.cut)
        case _:
            match form:
                case "imagefolder":
                    if head is None:
                        raise UsageError(
                            "an image folder has a folder for each genus; say with --head which predictions name them"
                        )
                    made = export_image_folder(store, out_path, head=head, where=where, slide=slide)
                case "anndata":
                    made = export_anndata(
                        store, out_path, where=where, slide=slide, head=head, embeddings=embeddings
                    )
                case "vectors":
                    made = export_vectors(store, out_path, where=where, slide=slide, embeddings=embeddings)
                case "geojson" | "csv":
                    made = export_objects(
                        store,
                        out_path,
                        form=form,
                        where=where,
                        slide=slide,
                        head=head,
                        subtract_bounds=not keep_bounds,
                    )
            _print(f"{counted(made.objects, 'object')} -> {out_path}")
            _print_left_out(
                clipped=made.clipped, without_pixels=made.without_pixels, without_genus=made.without_genus
            )


def _refuse_strangers(form: ExportForm, given: dict[str, object]) -> None:
    from fossilray.core.errors import UsageError

    for option, value in given.items():
        forms = _FORMS_OF_OPTION[option]
        if value is not None and form not in forms:
            raise UsageError(
                f"{option} is of --format {', '.join(forms)}, and {form} has no use for it; leave it out"
            )


def _tiles_line(objects: int, boxes: int, images: int, background: int, out_path: Path) -> str:
    return f"{objects} objects as {boxes} boxes in {images} images, {background} of them without object -> {out_path}"


def _print_background(background: int, images: int, asked: float) -> None:
    """Say so where the share of images without object is more than 5 points from the asked one."""
    reached = background / max(images, 1)
    if images and abs(reached - asked) > 0.05:
        _print(
            f"asked {asked:.0%} of the images without object, reached {reached:.0%}: the slides have no more such "
            "tiles, or the images are too few for that share"
        )


def _print_left_out(**counts: int) -> None:
    says = {
        "clipped": "boxes reached beyond the scanned area and end at its edge",
        "without_pixels": "objects have no vector, for their pixels could not be read",
        "without_genus": "objects have no genus in these predictions and are left out",
        "unreadable": "images are left out, for the slide could not be read there",
        "lost": "objects are in no image for that reason",
        "cut": "objects are larger than an image, and their boxes end at its edge",
    }
    for name, count in counts.items():
        if count:
            _print(f"{count} {says[name]}")


def _print(line: str) -> None:
    out.print(line, markup=False, highlight=False, soft_wrap=True)
