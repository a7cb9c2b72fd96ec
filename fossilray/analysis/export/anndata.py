"""Vectors and measurements of objects as an AnnData file, which scanpy, squidpy and R's zellkonverter read.

Written with h5py to the layout that anndata documents ("On-disk format", encodings 0.1.0 and 0.2.0), one slide at a
time: anndata's own writer wants all of it in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.analysis.export.selection import Exported, ObjectSelection
from fossilray.analysis.export.vectors import backbone_json
from fossilray.core.atomic_files import atomic_file
from fossilray.core.errors import UsageError
from fossilray.store import RunStore
from fossilray.store.query.vectors import VectorReader

_ROWS_A_CHUNK = 2048
_NAMED = ("slide_id", "well", "genus", "genus_2")
"""Columns of text with few values: categories."""
_NUMBERS = (
    *("measured_depth_m", "x_min", "y_min", "x_max", "y_max", "width_um", "height_um", "area_um2", "score"),
    *("overlap", "opacity", "sharpness", "mean_r", "mean_g", "mean_b"),
    *("genus_score", "genus_entropy", "genus_2_score"),
)
_FLAGS = ("isolated", "touches_edge")
_NOT_SHOWN = {"arrays"}
"""Of the store alone; all other columns of `objects` are in one of the lists above."""


def export_anndata(
    store: RunStore,
    out: Path,
    *,
    where: str | None = None,
    slide: str | None = None,
    head: str | None = None,
    embeddings: str | None = None,
) -> Exported:
    """Write one .h5ad: X the vectors (n, d) float32, obs the columns of `objects`.

    embeddings: a name of `fossilray embed`; None: the run's own vectors. head: predictions whose genus goes into
    obs. obs_names are `<slide_id>:<object_id>`; boxes and obsm["spatial"], the centre of each, are level-0 px of
    OpenSlide's frame; uns["fossilray"] tells where all this is from. Numbers that are missing are NaN. Objects
    whose pixels could not be read have no vector and are left out. One slide is in memory at a time.

    Raises:
        QueryError: DuckDB refuses the condition, or the run made no vectors.
        RunNotFound: there are no predictions, or embeddings, of this name.
        StoreError: the vectors of a slide are gone, not there yet, or about objects that were made anew since.
        UsageError: the slide is not in the run, h5py is missing, or `out` does not end in .h5ad, exists or cannot be
            written.
    """
    try:
        import h5py
    except ImportError:
        raise UsageError("AnnData files need h5py: pip install 'fossilray[export]'") from None
    if out.suffix.lower() != ".h5ad" or out.exists():
        raise UsageError(f"{out} must end in .h5ad and not exist yet; choose another --out")
    chosen = ObjectSelection(store, where=where, slide=slide, head=head)
    reader = VectorReader(store, embeddings)
    made_by = backbone_json(reader)
    clipped = without_pixels = 0
    with atomic_file(out, defer_errors=True) as sink, h5py.File(sink, "w") as file:
        written: _Columns | None = None
        for one in chosen:
            known = one.table.filter(one.table["opacity"].is_valid())
            without_pixels += one.table.num_rows - known.num_rows
            clipped += one.clipped
            if not known.num_rows:
                continue
            vectors = reader.rows(known).astype(np.float32)
            if written is None:
                written = _Columns.begin(file, dimension=vectors.shape[1], classes=chosen.classes)
            written.add(known, vectors)
        written = written or _Columns.begin(file, dimension=0, classes=chosen.classes)
        written.finish({"run": store.url, "embeddings": made_by, "head": head or ""})
    return Exported(written.rows, clipped, without_pixels=without_pixels)


@dataclass
class _Columns:
    """An AnnData file that grows row by row."""

    file: Any
    rows: int = 0
    numbers: dict[str, dict[str, int]] = field(default_factory=dict)
    """Of each column of categories: the code of each value."""

    @staticmethod
    def begin(file: Any, *, dimension: int, classes: tuple[str, ...]) -> _Columns:
        _mark(file, "anndata", "0.1.0")
        _grow(file, "X", np.float32, dimension)
        obs = _frame(file, "obs")
        _grow(file.require_group("obsm"), "spatial", np.float64, 2)
        _frame(file, "var")
        var = file["var"]
        _texts(var, "_index", [f"embedding_{number}" for number in range(dimension)])
        var.attrs.create("column-order", np.array([], dtype=_text()))
        own = _Columns(file)
        _mark(_grow(obs, "_index", _text()), "string-array", "0.2.0")
        for name in ("obsm", "uns", "layers", "varm", "obsp", "varp"):
            _mark(file.require_group(name), "dict", "0.1.0")
        if classes:
            # All classes in the head's order, whether or not they were found.
            own.numbers = {
                name: {genus: place for place, genus in enumerate(classes)} for name in ("genus", "genus_2")
            }
        return own

    def add(self, table: pa.Table, vectors: NDArray[np.float32]) -> None:
        """Append objects with their vectors."""
        obs = self.file["obs"]
        corners = {name: table[name].to_numpy() for name in ("x_min", "y_min", "x_max", "y_max")}
        centre = [(corners[f"{axis}_min"] + corners[f"{axis}_max"]) / 2 for axis in "xy"]
        slide_ids, object_ids = table["slide_id"].to_pylist(), table["object_id"].to_pylist()
        self._append(self.file["X"], vectors)
        self._append(self.file["obsm/spatial"], np.stack(centre, axis=1))
        names = [f"{slide_id}:{number}" for slide_id, number in zip(slide_ids, object_ids, strict=True)]
        self._append(obs["_index"], np.array(names, object))
        for name in table.column_names:
            if name in _NOT_SHOWN:
                continue
            column = table[name]
            if name in _NAMED:
                group = obs.require_group(name)
                values = np.array([self._code(name, value) for value in column.to_pylist()], np.int32)
                self._append(group["codes"] if "codes" in group else _grow(group, "codes", np.int32), values)
                continue
            kind = np.int32 if name == "object_id" else np.bool_ if name in _FLAGS else np.float64
            if kind == np.float64 and name not in _NUMBERS:
                raise ValueError(f"{name} is a column of objects that the export does not know")
            missing = column.cast(pa.float64()).to_numpy() if kind == np.float64 else column.to_numpy()
            self._append(obs[name] if name in obs else _grow(obs, name, kind), missing.astype(kind))
        self.rows += table.num_rows

    def finish(self, stated: dict[str, str]) -> None:
        """Write what is known only at the end: the categories, the order of columns, where it is from."""
        obs = self.file["obs"]
        columns = [
            name for name in ("slide_id", "object_id", "well", *_NUMBERS, *_FLAGS, *_NAMED) if name in obs
        ]
        for name in set(columns) & set(_NAMED):
            group = obs[name]
            _mark(group, "categorical", "0.2.0")
            group.attrs["ordered"] = False
            _texts(group, "categories", list(self.numbers.get(name, {})))
        obs.attrs.create("column-order", np.array(list(dict.fromkeys(columns)), dtype=_text()))
        told = self.file["uns"].create_group("fossilray")
        _mark(told, "dict", "0.1.0")
        for name, text in stated.items():
            told.create_dataset(name, data=text, dtype=_text())
            _mark(told[name], "string", "0.2.0")

    def _code(self, column: str, value: str | None) -> int:
        if value is None:
            return -1
        known = self.numbers.setdefault(column, {})
        return known.setdefault(value, len(known))

    def _append(self, dataset: Any, values: NDArray[Any]) -> None:
        dataset.resize(self.rows + len(values), axis=0)
        dataset[self.rows :] = values


def _frame(file: Any, name: str) -> Any:
    group = file.create_group(name)
    _mark(group, "dataframe", "0.2.0")
    group.attrs["_index"] = "_index"
    return group


def _grow(group: Any, name: str, kind: Any, width: int | None = None) -> Any:
    """A dataset of no rows yet."""
    shape, most = ((0,), (None,)) if width is None else ((0, width), (None, width))
    chunks = (_ROWS_A_CHUNK,) if width is None else (_ROWS_A_CHUNK, max(width, 1))
    dataset = group.create_dataset(
        name, shape=shape, maxshape=most, chunks=chunks if width != 0 else True, dtype=kind
    )
    _mark(dataset, "array", "0.2.0")
    return dataset


def _texts(group: Any, name: str, texts: list[str]) -> None:
    group.create_dataset(name, data=np.array(texts, dtype=object), dtype=_text())
    _mark(group[name], "string-array", "0.2.0")


def _mark(item: Any, kind: str, version: str) -> None:
    item.attrs["encoding-type"], item.attrs["encoding-version"] = kind, version


def _text() -> Any:
    import h5py

    return h5py.string_dtype()
