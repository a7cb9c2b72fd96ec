"""Commands about single objects as specimens: citations, and plates of figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fossilray.cli.options import (
    LIMIT_HELP,
    ConfigOption,
    PredictionsOption,
    RunArgument,
    SetOption,
    WhereOption,
    open_store,
    outside_runs,
)
from fossilray.cli.output import print_line, working
from fossilray.core.config.choices import PlateLetters, PlateScale
from fossilray.core.errors import UsageError
from fossilray.core.text import counted

if TYPE_CHECKING:
    from fossilray.analysis.specimens.citation import Citer
    from fossilray.analysis.specimens.placement import StatedPlacements
    from fossilray.analysis.specimens.slide_files import AvailableFiles
    from fossilray.analysis.specimens.specimens import RunSpecimen
    from fossilray.store import RunStore

ScanTurn = Literal["0", "90", "180", "270"]

SpecimensArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SLIDE:ID...",
        help="Specimens, by slide_id and object_id or by the link that `fossilray cite` writes.",
    ),
]
SpecimenTableOption = Annotated[
    Path | None,
    typer.Option(
        "--specimens",
        help="Table of specimens: slide_id and object_id, or link; optionally taxon and remark.",
    ),
]
PlacementOption = Annotated[
    Path | None,
    typer.Option(
        "--placement",
        help="Table of where scans lie on their glass: slide_id with left_mm and top_mm, or with object_id and the "
        "england_finder reading of that object; optionally turned.",
    ),
]
ScanCornerOption = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--scan-corner",
        metavar="LEFT TOP",
        help="Distance in mm of the scanned area from the left and the top edge of the glass, for every slide "
        "that --placement does not name.",
    ),
]
TurnedOption = Annotated[
    ScanTurn,
    typer.Option(
        "--turned",
        help="Degrees by which scans are turned clockwise to show the glass with its label at the left.",
    ),
]
GlassOption = Annotated[
    tuple[float, float],
    typer.Option("--glass", metavar="WIDTH HEIGHT", help="Size of the glass in mm."),
]
FinderOption = Annotated[
    tuple[float, float],
    typer.Option(
        "--finder-offset",
        metavar="LEFT BOTTOM",
        help="Distance in mm of column 1 and row Z of the England Finder from its left and bottom edge.",
    ),
]
SlideFolderOption = Annotated[
    Path | None,
    typer.Option(
        "--slide-folder",
        help="Folder where the slides' files lie now; default: where they lay when the run was made.",
    ),
]
CitationsOption = Annotated[
    Path | None,
    typer.Option("--out", callback=outside_runs, help="Output file for the citations as a table (.csv)."),
]

PlateFileOption = Annotated[
    Path, typer.Option("--out", callback=outside_runs, help="Output file for the plate (.pdf, .svg, .png).")
]
PlateScaleOption = Annotated[
    PlateScale,
    typer.Option(
        "--scale",
        help="Magnification: each specimen fills an equal square and has its own scale bar, or a common one for all.",
    ),
]
LettersOption = Annotated[PlateLetters, typer.Option("--letters", help="How the specimens are lettered.")]
TitleOption = Annotated[str, typer.Option("--title", help="Beginning of the caption, such as 'Plate 1'.")]
ColumnsOption = Annotated[
    int | None,
    typer.Option(
        "--columns", min=1, max=20, help="Specimens in a row, with --scale each; default: as fits best."
    ),
]
PageOption = Annotated[
    tuple[float, float],
    typer.Option("--page", metavar="WIDTH HEIGHT", help="Size of the page in mm; its height may be less."),
]
CaptionFileOption = Annotated[
    Path | None,
    typer.Option(
        "--caption-file",
        callback=outside_runs,
        help="Text file for the caption, which is then not on the plate.",
    ),
]


def cite(
    run: RunArgument,
    specimens: SpecimensArgument = None,
    table: SpecimenTableOption = None,
    where: WhereOption = None,
    limit: Annotated[int | None, typer.Option("--limit", help=LIMIT_HELP, show_default="no limit")] = None,
    predictions: PredictionsOption = None,
    placement: PlacementOption = None,
    scan_corner: ScanCornerOption = None,
    turned: TurnedOption = "0",
    glass: GlassOption = (76.0, 26.0),
    finder_offset: FinderOption = (0.0, 0.0),
    slide_folder: SlideFolderOption = None,
    out_file: CitationsOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Cite specimens: a stable link, millimetres in the scan and on the glass, England Finder reading."""
    from fossilray.analysis.specimens.citation import describe, explain_placements
    from fossilray.analysis.specimens.citation_table import write_citations
    from fossilray.analysis.specimens.slide_files import AvailableFiles

    store = open_store(run, config, set_)
    chosen, more = SpecimenChoice(specimens, table, where, limit, predictions).find(store)
    stated = stated_placements(placement, scan_corner, turned, glass, finder_offset)
    citer = citer_of(store, stated, AvailableFiles(slide_folder))
    citations = [citer.cite(specimen) for specimen in chosen]
    for citation in citations:
        print_line(describe(citation))
    if more:
        print_line(f"{more:,} more objects meet --where")
    for sentence in explain_placements(citations, stated):
        print_line(sentence)
    if out_file is not None:
        write_citations(citations, out_file)
        print_line(f"-> {out_file}")


def plate(
    run: RunArgument,
    out_file: PlateFileOption,
    specimens: SpecimensArgument = None,
    table: SpecimenTableOption = None,
    where: WhereOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help=LIMIT_HELP)] = 24,
    predictions: PredictionsOption = None,
    scale: PlateScaleOption = "each",
    letters: LettersOption = "upper",
    title: TitleOption = "",
    columns: ColumnsOption = None,
    page: PageOption = (170.0, 230.0),
    caption_file: CaptionFileOption = None,
    placement: PlacementOption = None,
    scan_corner: ScanCornerOption = None,
    turned: TurnedOption = "0",
    glass: GlassOption = (76.0, 26.0),
    finder_offset: FinderOption = (0.0, 0.0),
    slide_folder: SlideFolderOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Lay specimens out as a plate for print: letters, scale bars, and a caption with their positions."""
    from fossilray.analysis.plates.plate import PlateOptions, write_plate
    from fossilray.analysis.specimens.citation import explain_placements
    from fossilray.analysis.specimens.slide_files import AvailableFiles

    if columns is not None and scale == "common":
        raise UsageError(
            "--columns applies to --scale each; with a common scale, rows are filled; leave it out"
        )
    store = open_store(run, config, set_)
    chosen, more = SpecimenChoice(specimens, table, where, limit, predictions).find(store)
    stated = stated_placements(placement, scan_corner, turned, glass, finder_offset)
    files = AvailableFiles(slide_folder)
    citer = citer_of(store, stated, files)
    citations = [citer.cite(specimen) for specimen in chosen]
    options = PlateOptions(title, letters, scale, columns, *page, caption_file)
    with working("plate"):
        written = write_plate(store, citations, files, out_file, options)
    if more:
        print_line(f"{more:,} more objects are chosen; --limit sets how many the plate takes")
    for reason in dict.fromkeys(reason for _, reason in written.reduced):
        letters_of_it = ", ".join(letter for letter, why in written.reduced if why == reason)
        print_line(f"{letters_of_it}: stored crops of reduced resolution are shown, because {reason}")
    for sentence in explain_placements(citations, stated):
        print_line(sentence)
    print_line(
        f"{counted(len(citations), 'specimen')} -> {out_file}, the coarsest with {written.fewest_px_per_in:.0f} px per "
        "inch"
    )


@dataclass(frozen=True)
class SpecimenChoice:
    """Which objects a command is about, as its options name them."""

    names: list[str] | None
    table: Path | None
    where: str | None
    limit: int | None
    predictions: str | None

    def find(self, store: RunStore) -> tuple[list[RunSpecimen], int]:
        """Return the specimens, and how many more meet --where.

        Raises:
            UsageError: none or several of the ways to name objects are used, or an object is not there.
        """
        from fossilray.analysis.specimens.specimens import (
            ChosenObject,
            find_chosen,
            find_matching,
            read_chosen,
        )

        if sum(map(bool, (self.names, self.table, self.where))) != 1:
            raise UsageError(
                "name the specimens in one way: SLIDE:ID after the run, --specimens TABLE or --where CONDITION"
            )
        if self.where:
            return find_matching(store, self.where, limit=self.limit, head=self.predictions)
        chosen = [ChosenObject(name) for name in self.names or ()]
        if self.table is not None:
            chosen = read_chosen(self.table)
        shown = chosen[: self.limit]
        return find_chosen(store, shown, head=self.predictions), len(chosen) - len(shown)


def stated_placements(
    placement: Path | None,
    scan_corner: tuple[float, float] | None,
    turned: ScanTurn,
    glass: tuple[float, float],
    finder_offset: tuple[float, float],
) -> StatedPlacements:
    """Return what the options state about the positions of scans on their glass."""
    from fossilray.analysis.specimens.england_finder import FinderGrid
    from fossilray.analysis.specimens.placement import TURNS, Glass, StatedPlacements, read_placements

    turn = next(degrees for degrees in TURNS if str(degrees) == turned)
    return StatedPlacements(
        scan_corner,
        turn,
        {} if placement is None else read_placements(placement, turned=turn),
        Glass(*glass),
        FinderGrid(*finder_offset),
    )


def citer_of(store: RunStore, stated: StatedPlacements, files: AvailableFiles) -> Citer:
    """Return what cites the objects of a run."""
    from fossilray.analysis.specimens.citation import Citer
    from fossilray.analysis.specimens.specimens import ChosenObject, find_chosen
    from fossilray.core.config.choices import NO_PREDICTIONS

    def find_box(slide_id: str, object_id: int) -> tuple[int, int, int, int]:
        named = ChosenObject(f"{slide_id}:{object_id}")
        return find_chosen(store, [named], head=NO_PREDICTIONS)[0].box

    return Citer(stated, read_properties=files.properties, find_box=find_box)
