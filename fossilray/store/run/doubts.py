"""Findings about slides of a run: those recorded with each slide, and those that compare slides of one well."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fossilray.core.doubt_codes import DOUBT_CODES
from fossilray.core.records import UNASSIGNED_WELL, CatalogRow, Doubt
from fossilray.core.schemas import SLIDES_SCHEMA
from fossilray.core.text import counted

# Medians of fewer slides are chance.
_FEWEST_SLIDES = 6
# Samples of one well differ by factors of two to three in density; wrong um per px changes it by its square.
_DENSITY_FACTOR, _SIZE_FACTOR = 5.0, 1.6
_SIGMAS = 4.0
_SIGMA_PER_MAD = 1.4826
# Fewer objects give quartiles by chance; so few expected ones may be none.
_FEWEST_OBJECTS = 30


@dataclass(frozen=True)
class DoubtCount:
    """The slides of a run with one kind of finding, and the finding of one of them."""

    code: str
    slides: int
    example: str
    """slide_id of a slide that has it."""
    sentence: str

    def __str__(self) -> str:
        return f"{self.code}: {counted(self.slides, 'slide')}, such as {self.example}: {self.sentence}"


def count_doubts(doubts: Mapping[str, Iterable[Doubt]]) -> tuple[DoubtCount, ...]:
    """Count slides by code of their findings, in the order of DOUBT_CODES. doubts: findings by slide_id."""
    slides: dict[str, dict[str, str]] = defaultdict(dict)
    for slide_id in sorted(doubts):
        for doubt in doubts[slide_id]:
            slides[doubt.code].setdefault(slide_id, doubt.sentence)
    order = [*DOUBT_CODES, *sorted(slides.keys() - DOUBT_CODES.keys())]
    return tuple(
        DoubtCount(code, len(slides[code]), *next(iter(slides[code].items())))
        for code in order
        if code in slides
    )


def doubts_of_run(slides: pa.Table, catalog: Iterable[CatalogRow]) -> dict[str, tuple[Doubt, ...]]:
    """Return the findings by slide_id: of committed slides as `add_comparisons` gives them, of others their catalog's.

    slides: table in SLIDES_SCHEMA. Slides without findings are left out.
    """
    committed = set(slides["slide_id"].to_pylist())
    doubts = _recorded(add_comparisons(slides))
    doubts |= {row.slide_id: row.doubts for row in catalog if row.doubts and row.slide_id not in committed}
    return dict(sorted(doubts.items()))


def add_comparisons(slides: pa.Table) -> pa.Table:
    """Return the table of committed slides with the findings of `compare_slides` added to the column doubts."""
    compared = compare_slides(slides)
    if not compared:
        return slides
    recorded = slides["doubts"].to_pylist()
    for number, slide_id in enumerate(slides["slide_id"].to_pylist()):
        if slide_id in compared:
            recorded[number] = [*(recorded[number] or ()), *map(asdict, compared[slide_id])]
    index = slides.schema.get_field_index("doubts")
    field = SLIDES_SCHEMA.field("doubts")
    return slides.set_column(index, field, pa.array(recorded, field.type))


def compare_slides(slides: pa.Table) -> dict[str, tuple[Doubt, ...]]:
    """Return, by slide_id, findings about density and sizes that are far from those of the well's other slides.

    Wells of fewer than 6 slides, and slides without a well, are not compared.
    """
    wells = np.asarray(slides["well"].to_pylist(), object)
    doubts: dict[str, list[Doubt]] = defaultdict(list)
    ids = slides["slide_id"].to_pylist()
    objects, areas = slides["objects"].to_numpy(), slides["scanned_mm2"].to_numpy()
    quartiles = _quartiles(slides)
    for well in sorted(set(wells.tolist()) - {UNASSIGNED_WELL}):
        members = np.flatnonzero(wells == well)
        if len(members) < _FEWEST_SLIDES:
            continue
        for row, usual in _unusual_density(objects[members], areas[members]):
            number = members[row]
            density = objects[number] / max(areas[number], 1e-12)
            doubts[ids[number]].append(
                Doubt(
                    "density-unusual",
                    float(density),
                    f"{density:,.3g} objects per mm2, where the {len(members)} slides of well {well} have a median of "
                    f"{usual:,.3g}; compare um per pixel, focus and picture with those of its neighbours",
                )
            )
        for row, size, usual in _unusual_sizes(quartiles[members], objects[members]):
            doubts[ids[members[row]]].append(
                Doubt(
                    "sizes-unusual",
                    size,
                    f"the median of the objects' longest side is {size:.3g} um, where the {len(members)} slides of "
                    f"well {well} have {usual:.3g}; compare um per pixel and picture with those of its neighbours",
                )
            )
    return {slide_id: tuple(of_slide) for slide_id, of_slide in doubts.items()}


def _recorded(slides: pa.Table) -> dict[str, tuple[Doubt, ...]]:
    has_any = pc.fill_null(pc.greater(pc.list_value_length(slides["doubts"]), 0), False)
    chosen = slides.filter(has_any)
    return {
        slide_id: tuple(Doubt(**doubt) for doubt in doubts)
        for slide_id, doubts in zip(chosen["slide_id"].to_pylist(), chosen["doubts"].to_pylist(), strict=True)
    }


def _quartiles(slides: pa.Table) -> NDArray[np.float64]:
    """Return (n, 3) quartiles of the longest side in um; nan where a slide has none."""
    column = slides["longest_um_quartiles"]
    quartiles = np.full((len(slides), 3), np.nan)
    for number, values in enumerate(column.to_pylist()):
        if values is not None and len(values) == 3:
            quartiles[number] = values
    return quartiles


def _unusual_density(objects: NDArray[np.int64], areas: NDArray[np.float64]) -> Iterable[tuple[int, float]]:
    """Yield rows whose density is unusual, with the median density."""
    # Half an object keeps barren slides finite.
    logs = np.log((objects + 0.5) / np.maximum(areas, 1e-12))
    middle, distance = _distances(logs)
    usual = float(np.exp(middle))
    enough = np.maximum(objects, usual * areas) >= _FEWEST_OBJECTS
    limit = max(np.log(_DENSITY_FACTOR), _SIGMAS * distance)
    for row in np.flatnonzero(enough & (np.abs(logs - middle) > limit)).tolist():
        yield row, usual


def _unusual_sizes(
    quartiles: NDArray[np.float64], objects: NDArray[np.int64]
) -> Iterable[tuple[int, float, float]]:
    """Yield rows all of whose quartiles are unusual to the same side, with their median and the usual one."""
    known = np.isfinite(quartiles).all(axis=1) & (quartiles > 0).all(axis=1) & (objects >= _FEWEST_OBJECTS)
    if known.sum() < _FEWEST_SLIDES:
        return
    rows = np.flatnonzero(known)
    logs = np.log(quartiles[rows])
    far = np.empty(logs.shape, np.int64)
    for column in range(3):
        middle, distance = _distances(logs[:, column])
        limit = max(np.log(_SIZE_FACTOR), _SIGMAS * distance)
        far[:, column] = np.where(
            np.abs(logs[:, column] - middle) > limit, np.sign(logs[:, column] - middle), 0
        )
    usual = float(np.exp(np.median(logs[:, 1])))
    for row in np.flatnonzero(np.abs(far.sum(axis=1)) == 3).tolist():
        yield int(rows[row]), float(quartiles[rows[row], 1]), usual


def _distances(logs: NDArray[np.float64]) -> tuple[float, float]:
    """Return the median of values and the robust standard deviation around it, from the median distance."""
    middle = float(np.median(logs))
    return middle, _SIGMA_PER_MAD * float(np.median(np.abs(logs - middle)))
