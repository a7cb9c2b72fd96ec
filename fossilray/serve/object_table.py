"""The objects of a run that the pages show, in memory: columns as arrays, chosen by conditions and put in order."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.store import RunStore
from fossilray.store.derived.listing import DerivedListing
from fossilray.store.query.connection import connect, create_objects_view, query_table

MOST_HELD = 5_000_000
"""Objects that are held in memory, about 50 bytes each; of larger runs, slides drawn at random."""

Order = Literal["slide", "most-confident", "least-confident", "largest", "smallest", "random"]

_COLUMNS = "slide_id, object_id, x_min, y_min, x_max, y_max, width_um, height_um, score"


@dataclass(frozen=True)
class ObjectTable:
    """Objects of some or all slides of a run, sorted by slide and object_id."""

    slides: tuple[str, ...]
    """slide_ids of the slides that are held."""
    total_slides: int
    """Committed slides of the run."""
    slide: NDArray[np.int32]
    """(n,) position in `slides`."""
    object_id: NDArray[np.int32]
    boxes: NDArray[np.int32]
    """(n, 4) x_min, y_min, x_max, y_max in level-0 px."""
    size_um: NDArray[np.float32]
    """(n, 2) width and height of the box."""
    score: NDArray[np.float32]
    """(n,) of the detector."""
    taxa: tuple[str, ...]
    """Predicted taxa, sorted."""
    taxon: NDArray[np.int16]
    """(n,) position in `taxa`; -1 without a prediction."""
    confidence: NDArray[np.float32]
    """(n,) calibrated score of the prediction; nan without one."""

    def __len__(self) -> int:
        return len(self.object_id)

    def rows_of_slide(self, slide_id: str) -> slice:
        """Return the rows of a slide, which lie together; none of a slide that is not held."""
        if slide_id not in self.slides:
            return slice(0, 0)
        position = self.slides.index(slide_id)
        first, last = np.searchsorted(self.slide, [position, position + 1])
        return slice(int(first), int(last))

    def row_of(self, slide_id: str, object_id: int) -> int | None:
        """Return the row of an object; None if it is not held."""
        rows = self.rows_of_slide(slide_id)
        row = rows.start + int(np.searchsorted(self.object_id[rows], object_id))
        return row if row < rows.stop and self.object_id[row] == object_id else None

    def choose(
        self,
        *,
        slides: Sequence[str] | None = None,
        taxa: Sequence[str] | None = None,
        confidence: tuple[float, float] = (0.0, 1.0),
        among: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.int64]:
        """Return the rows that meet all conditions.

        Args:
            slides: slide_ids; None: all.
            taxa: any of these is predicted; an empty name: objects without a prediction; None: all.
            confidence: least and greatest score of the prediction; (0, 1) keeps objects without one.
            among: (n,) mask of the rows to choose from; None: all.
        """
        if slides is not None and len(slides) == 1:
            held = self.rows_of_slide(slides[0])
            rows = np.arange(held.start, held.stop)
            mask = np.ones(len(rows), bool)
        else:
            rows = np.arange(len(self))
            mask = np.ones(len(rows), bool)
            if slides is not None:
                wanted = [
                    position for position, slide_id in enumerate(self.slides) if slide_id in set(slides)
                ]
                mask &= np.isin(self.slide, wanted)
        if taxa is not None:
            positions = [self.taxa.index(name) if name else -1 for name in taxa if name in ("", *self.taxa)]
            mask &= np.isin(self.taxon[rows], positions)
        least, greatest = confidence
        if (least, greatest) != (0.0, 1.0):
            with np.errstate(invalid="ignore"):
                mask &= (self.confidence[rows] >= least) & (self.confidence[rows] <= greatest)
        if among is not None:
            mask &= among[rows]
        chosen: NDArray[np.int64] = rows[mask]
        return chosen

    def sort(self, rows: NDArray[np.int64], order: Order, *, seed: int = 0) -> NDArray[np.int64]:
        """Return the rows in an order; equal ones stay as they are. Objects without a prediction come last."""
        longest = self.size_um[rows].max(axis=1, initial=0)
        keys: dict[Order, NDArray[np.generic]] = {
            "most-confident": np.nan_to_num(-self.confidence[rows], nan=np.inf),
            "least-confident": np.nan_to_num(self.confidence[rows], nan=np.inf),
            "largest": -longest,
            "smallest": longest,
            "random": _scatter(rows, seed),
        }
        if order not in keys:
            return rows
        ordered: NDArray[np.int64] = rows[np.argsort(keys[order], kind="stable")]
        return ordered


def read_object_table(
    store: RunStore,
    predictions: DerivedListing | None,
    *,
    most: int = MOST_HELD,
    always_held: Collection[str] = (),
    seed: int = 0,
) -> ObjectTable:
    """Read the objects of a run; of one with more than `most`, those of slides drawn at random.

    always_held: slide_ids of slides that are among them, even if they have more.

    Raises:
        StoreError: the run cannot be read.
    """
    summaries = store.summaries_table()
    counts = dict(zip(summaries["slide_id"].to_pylist(), summaries["objects"].to_pylist(), strict=True))
    held = _draw_slides(counts, most=most, first=always_held, seed=seed)
    files = store.committed_files()
    con = connect(store)
    chosen = {slide_id: files[slide_id] for slide_id in held if slide_id in files}
    create_objects_view(con, store, None if len(held) == len(counts) else chosen, genera=predictions)
    more = "" if predictions is None else ", genus, genus_score"
    table = query_table(con, f"SELECT {_COLUMNS}{more} FROM objects ORDER BY slide_id, object_id")
    slides = tuple(sorted(held))
    names = table["slide_id"].combine_chunks().dictionary_encode() if len(table) else None
    codes = np.zeros(0, np.int32)
    if names is not None:
        position_of = {slide_id: position for position, slide_id in enumerate(slides)}
        of_code = np.array([position_of[name] for name in names.dictionary.to_pylist()], np.int32)
        codes = of_code[names.indices.to_numpy()]
    taxa, taxon = _encode_taxa(table, has_taxa=predictions is not None)
    confidence = np.full(len(table), np.nan, np.float32)
    if predictions is not None:
        confidence = np.asarray(table["genus_score"].to_numpy(), np.float32)
    return ObjectTable(
        slides,
        len(counts),
        codes,
        np.asarray(table["object_id"].to_numpy(), np.int32),
        np.stack([table[name].to_numpy() for name in ("x_min", "y_min", "x_max", "y_max")], axis=1).astype(
            np.int32
        ),
        np.stack([table[name].to_numpy() for name in ("width_um", "height_um")], axis=1).astype(np.float32),
        np.asarray(table["score"].to_numpy(), np.float32),
        taxa,
        taxon,
        confidence,
    )


def _draw_slides(counts: dict[str, int], *, most: int, first: Collection[str], seed: int) -> list[str]:
    """Return all slides, or these first and others in random order until they hold `most` objects; one at least."""
    slides = sorted(counts)
    if sum(counts.values()) <= most:
        return slides
    drawn = [slide_id for slide_id in slides if slide_id in first]
    objects = sum(counts[slide_id] for slide_id in drawn)
    for position in np.random.default_rng(seed).permutation(len(slides)).tolist():
        if slides[position] in first:
            continue
        objects += counts[slides[position]]
        if drawn and objects > most:
            break
        drawn.append(slides[position])
    return sorted(drawn)


def _encode_taxa(table: pa.Table, *, has_taxa: bool) -> tuple[tuple[str, ...], NDArray[np.int16]]:
    """Return the taxa of a table, sorted, and the position of each row's among them; -1 without one."""
    if not has_taxa or not len(table):
        return (), np.full(len(table), -1, np.int16)
    encoded = table["genus"].combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    taxa = tuple(sorted(names))
    position_of = np.array([taxa.index(name) for name in names] + [-1], np.int16)
    codes = encoded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
    return taxa, position_of[codes]


def _scatter(rows: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """Return a number for each row that depends on the row and the seed alone (finaliser of SplitMix64)."""
    with np.errstate(over="ignore"):
        mixed = (rows.astype(np.uint64) + np.uint64(seed + 1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scattered: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return scattered
