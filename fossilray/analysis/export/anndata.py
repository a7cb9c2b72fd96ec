"""Export of embeddings and measures of objects as AnnData, for scanpy, squidpy and R's zellkonverter.

The file is written with h5py in the layout that anndata documents ("On-disk format", encodings 0.1.0 and 0.2.0), one
slide at a time, because anndata's writer needs all data in memory.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.analysis.export.selection import ExportResult, ObjectSelection
from fossilray.analysis.export.vectors import backbone_json
from fossilray.core.atomic_files import atomic_file
from fossilray.core.errors import UsageError
from fossilray.store import RunStore
from fossilray.store.query.vectors import VectorReader

_CHUNK_ROWS = 2048
_CATEGORIES = ("slide_id", "well", "genus", "genus_2")
"""Columns of text with few values, which are written as categories."""
_NUMBERS = (
    *("measured_depth_m", "x_min", "y_min", "x_max", "y_max", "width_um", "height_um", "area_um2", "score"),
    *("overlap", "opacity", "sharpness", "mean_r", "mean_g", "mean_b", "focus_plane"),
    *("genus_score", "genus_entropy", "genus_2_score"),
)
_FLAGS = ("isolated", "touches_edge")
_LEFT_OUT = {"arrays", "plane_sharpness"}
"""A column that only the store uses, and one of lists. All other columns of `objects` are in one of the lists above."""


def export_anndata(
    store: RunStore,
    out: Path,
    *,
    where: str | None = None,
    slides: Collection[str] = (),
    head: str | None = None,
    embeddings: str | None = None,
) -> ExportResult:
    """Write one .h5ad: X has the embeddings (n, dimension) as float32, obs the columns of `objects`.

    obs_names are `<slide_id>:<object_id>`. Boxes and their centres in obsm["spatial"] are in level-0 px of OpenSlide's
    frame. uns["fossilray"] has the provenance. Missing numbers are NaN. Objects whose pixels could not be read have no
    embedding and are left out. Memory holds one slide.

    Args:
        where: SQL condition on `objects`.
        slides: slide_ids of the slides to export; none: all.
        head: name of the predictions whose genera are written into obs; None: the newest; `none`: none.
        embeddings: name of embeddings of `fossilray embed`; None: the run's own.

    Raises:
        QueryError: DuckDB refuses the condition, or the run has no embeddings.
        RunNotFound: there are no predictions, or embeddings, of this name.
        StoreError: embeddings of a slide are missing, or the slide was reprocessed since they were made.
        UsageError: a slide is not in the run, h5py is missing, or `out` does not end in .h5ad, exists or cannot be
            written.
    """
    try:
        import h5py
    except ImportError:
        raise UsageError("AnnData files need h5py: pip install 'fossilray[export]'") from None
    if out.suffix.lower() != ".h5ad" or out.exists():
        raise UsageError(f"{out} must end in .h5ad and not exist yet; choose another --out")
    selection = ObjectSelection(store, where=where, slides=slides, head=head)
    reader = VectorReader(store, embeddings)
    backbone = backbone_json(reader)
    clipped = without_pixels = 0
    with atomic_file(out, defer_errors=True) as sink, h5py.File(sink, "w") as file:
        columns: _Columns | None = None
        for objects in selection:
            with_pixels = objects.table.filter(objects.table["opacity"].is_valid())
            without_pixels += objects.table.num_rows - with_pixels.num_rows
            clipped += objects.clipped
            if not with_pixels.num_rows:
                continue
            vectors = reader.rows(with_pixels).astype(np.float32)
            if columns is None:
                columns = _Columns.begin(file, dimension=vectors.shape[1], classes=selection.classes)
            columns.add(with_pixels, vectors)
        columns = columns or _Columns.begin(file, dimension=0, classes=selection.classes)
        columns.finish({"run": store.url, "embeddings": backbone, "head": selection.predictions or ""})
    return ExportResult(columns.rows, clipped, without_pixels=without_pixels)


@dataclass
class _Columns:
    """An AnnData file that grows row by row."""

    file: Any
    rows: int = 0
    numbers: dict[str, dict[str, int]] = field(default_factory=dict)
    """Code of each value, by column of categories."""

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
        columns = _Columns(file)
        _mark(_grow(obs, "_index", _text()), "string-array", "0.2.0")
        for name in ("obsm", "uns", "layers", "varm", "obsp", "varp"):
            _mark(file.require_group(name), "dict", "0.1.0")
        if classes:
            # All classes of the head are categories, in its order, also those without objects.
            columns.numbers = {
                name: {genus: code for code, genus in enumerate(classes)} for name in ("genus", "genus_2")
            }
        return columns

    def add(self, table: pa.Table, vectors: NDArray[np.float32]) -> None:
        """Append objects with their embeddings."""
        obs = self.file["obs"]
        corners = {name: table[name].to_numpy() for name in ("x_min", "y_min", "x_max", "y_max")}
        centre = [(corners[f"{axis}_min"] + corners[f"{axis}_max"]) / 2 for axis in "xy"]
        slide_ids, object_ids = table["slide_id"].to_pylist(), table["object_id"].to_pylist()
        self._append(self.file["X"], vectors)
        self._append(self.file["obsm/spatial"], np.stack(centre, axis=1))
        names = [f"{slide_id}:{number}" for slide_id, number in zip(slide_ids, object_ids, strict=True)]
        self._append(obs["_index"], np.array(names, object))
        for name in table.column_names:
            if name in _LEFT_OUT:
                continue
            column = table[name]
            if name in _CATEGORIES:
                group = obs.require_group(name)
                values = np.array([self._code(name, value) for value in column.to_pylist()], np.int32)
                self._append(group["codes"] if "codes" in group else _grow(group, "codes", np.int32), values)
                continue
            kind = np.int32 if name == "object_id" else np.bool_ if name in _FLAGS else np.float64
            if kind == np.float64 and name not in _NUMBERS:
                raise ValueError(f"{name} is a column of objects that the export does not know")
            values = column.cast(pa.float64()).to_numpy() if kind == np.float64 else column.to_numpy()
            self._append(obs[name] if name in obs else _grow(obs, name, kind), values.astype(kind))
        self.rows += table.num_rows

    def finish(self, provenance: dict[str, str]) -> None:
        """Write the categories, the order of columns and the provenance."""
        obs = self.file["obs"]
        columns = [
            name
            for name in ("slide_id", "object_id", "well", *_NUMBERS, *_FLAGS, *_CATEGORIES)
            if name in obs
        ]
        for name in set(columns) & set(_CATEGORIES):
            group = obs[name]
            _mark(group, "categorical", "0.2.0")
            group.attrs["ordered"] = False
            _texts(group, "categories", list(self.numbers.get(name, {})))
        obs.attrs.create("column-order", np.array(list(dict.fromkeys(columns)), dtype=_text()))
        group = self.file["uns"].create_group("fossilray")
        _mark(group, "dict", "0.1.0")
        for name, text in provenance.items():
            group.create_dataset(name, data=text, dtype=_text())
            _mark(group[name], "string", "0.2.0")

    def _code(self, column: str, value: str | None) -> int:
        if value is None:
            return -1
        codes = self.numbers.setdefault(column, {})
        return codes.setdefault(value, len(codes))

    def _append(self, dataset: Any, values: NDArray[Any]) -> None:
        dataset.resize(self.rows + len(values), axis=0)
        dataset[self.rows :] = values


def _frame(file: Any, name: str) -> Any:
    group = file.create_group(name)
    _mark(group, "dataframe", "0.2.0")
    group.attrs["_index"] = "_index"
    return group


def _grow(group: Any, name: str, kind: Any, width: int | None = None) -> Any:
    """Create a dataset without rows that can grow."""
    shape, max_shape = ((0,), (None,)) if width is None else ((0, width), (None, width))
    chunks = (_CHUNK_ROWS,) if width is None else (_CHUNK_ROWS, max(width, 1))
    dataset = group.create_dataset(
        name, shape=shape, maxshape=max_shape, chunks=chunks if width != 0 else True, dtype=kind
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
