"""Labelled crops from folders of images, tables of files, tables of a run's objects, and label sets."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.core.config.choices import HoldOutUnit
from fossilray.core.errors import UsageError
from fossilray.core.formats.regular_file import read_regular
from fossilray.core.images import IMAGE_SUFFIXES, read_image, resize_to
from fossilray.core.text import counted, list_some, strip_control_characters, unescape_formula
from fossilray.core.user_table import read_user_table
from fossilray.labels.agreement import Agreement, Naming, class_of
from fossilray.labels.current import labels_of_run
from fossilray.labels.label_set import is_label_set
from fossilray.labels.labelled_crops import LabelledCrops
from fossilray.labels.name_marks import exported_files, is_predicted_image, is_predicted_row
from fossilray.labels.near_duplicates import group_duplicates
from fossilray.labels.occurrence_cells import occurrence_of_cell

if TYPE_CHECKING:
    from fossilray.store import RunStore

_Item = TypeVar("_Item")
_Other = TypeVar("_Other")

LABELLED_CROP_PX = 224
"""Of crops in memory, as a run stores them: 150 kB each."""


@dataclass(frozen=True)
class LabelReport:
    """Problems found while labels were loaded."""

    unreadable: tuple[tuple[str, str], ...]
    """Images that were left out, with the reason."""
    unlabelled: int
    """Rows of a table without a genus, left out."""
    singletons: tuple[str, ...]
    """Classes of one crop: trained on, but never evaluated."""
    duplicates: tuple[tuple[str, ...], ...]
    """Names of crops that show one picture; a split never separates them."""
    conflicts: tuple[tuple[str, ...], ...]
    """Groups of `duplicates` with more than one label, as `name (class)`."""
    unnamed: Mapping[str, int] = field(default_factory=dict)
    """Labels without a class, left out: their number by reason, such as `coarser than species`."""
    moved: int = 0
    """Labels of a label set that were given to other attempts or runs, and found by their position."""


@dataclass(frozen=True)
class LabelledSet:
    """Labelled crops with their names, and the groups that show one picture."""

    crops: LabelledCrops
    names: tuple[str, ...]
    """Path below the folder, or `slide_id #object_id`."""
    group: NDArray[np.int64]
    """(n,) equal for crops that show one picture."""
    findings: LabelReport
    vectors: NDArray[np.float16] | None = None
    """(n, d) embeddings by the run's own backbone; None for images, or if the run has none."""
    backbone_sha256: str | None = None
    """Digest of the weights that made `vectors`."""
    wells: tuple[str, ...] | None = None
    """Well of each crop; None unless all are known."""

    def __len__(self) -> int:
        return len(self.names)

    def groups_for(self, hold_out: HoldOutUnit) -> NDArray[np.int64]:
        """Return groups (n,) that a fold holds out whole: crops of one picture, or crops of one well.

        Raises:
            UsageError: the unit is wells, and the wells of the crops are unknown or fewer than two.
        """
        if hold_out == "crops":
            return self.group
        if self.wells is None or len(set(self.wells)) < 2:
            raise UsageError(
                "wells cannot be held out: the labels name fewer than two; label objects of a run over several "
                "wells, or add a column well to the table of files"
            )
        return np.unique(np.array(self.wells), return_inverse=True)[1].astype(np.int64)


def load_labels(labels: Path, *, run: RunStore | None = None, naming: Naming | None = None) -> LabelledSet:
    """Load labelled crops from a folder of <class>/<image>, a CSV, or a label set.

    A CSV has the columns path and genus (paths relative to its folder) and optionally well, or the columns slide_id,
    object_id and genus of objects of `run`. Class names are compared in Unicode's composed form (NFC), stripped. The
    report lists images that cannot be decoded, which are left out, and equal and nearly equal images.

    naming: rank and taxonomy of the classes. By default the classes of folders and tables are their names as written,
    and those of a label set the taxa and kinds on which annotators agree.

    Raises:
        UsageError: the labels are missing or empty, a table lacks columns or labels a row twice, names are predicted,
            or fewer than two classes are left.
    """
    if is_label_set(labels):
        labelled = _read_label_set(labels, run, naming)
    elif labels.is_dir():
        named, unnamed = _named(_list_folder(labels), naming)
        labelled = _with_unnamed(_read_images(named, unlabelled=0), unnamed)
    elif labels.exists():
        labelled = _read_table(labels, run, naming)
    else:
        raise UsageError(f"{labels} does not exist; give a folder of <class>/<image> or a CSV of labels")
    if len(labelled.crops.classes) < 2:
        lost = labelled.findings.unreadable
        first_lost = f"; left out: {len(lost)}, the first {lost[0][0]} ({lost[0][1]})" if lost else ""
        raise UsageError(
            f"{labels} has readable crops of {'one class' if labelled.crops.classes else 'no class'}, and a "
            f"classifier takes two{first_lost}"
        )
    return labelled


def _read_label_set(folder: Path, run: RunStore | None, naming: Naming | None) -> LabelledSet:
    """Load the current labels; objects with contradicting labels, and those that the run lacks, are left out."""
    if run is None:
        raise UsageError(f"{folder} labels objects of a run; name it with --run")
    of_run = labels_of_run(folder, run, naming=naming)
    labelled = _read_objects(
        run, [key for key, _ in of_run.current], [_clean(name) for _, name in of_run.current], unlabelled=0
    )
    findings = replace(
        labelled.findings,
        unreadable=(
            *labelled.findings.unreadable,
            *((_shown(name), reason) for name, reason in of_run.left_out),
        ),
        unnamed=of_run.unnamed,
        moved=len(of_run.matches.moved),
    )
    return replace(labelled, findings=findings)


def _named(
    listed: Sequence[tuple[_Item, _Other, str]], naming: Naming | None
) -> tuple[list[tuple[_Item, _Other, str]], Mapping[str, int]]:
    """Turn the names of (item, other, name) into classes; without naming they stay as they are."""
    if naming is None:
        return list(listed), {}
    named, unnamed = [], Counter[str]()
    for item, other, text in listed:
        occurrence = occurrence_of_cell(text)
        given = Agreement(None, "without a name") if occurrence is None else class_of(occurrence, naming)
        if given.name is None:
            unnamed[given.reason] += 1
        else:
            named.append((item, other, given.name))
    return named, dict(sorted(unnamed.items()))


def _with_unnamed(labelled: LabelledSet, unnamed: Mapping[str, int]) -> LabelledSet:
    return replace(labelled, findings=replace(labelled.findings, unnamed=unnamed))


def _list_folder(folder: Path) -> list[tuple[str, Path, str]]:
    """Return (name, file, class) of every image, sorted by class and file."""
    images = [
        (_shown(str(path.relative_to(folder))), path, _clean(path.parent.name))
        for path in sorted(folder.glob("*/*"))
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    if not images:
        raise UsageError(f"{folder} holds no <class>/<image> files; give a folder of classes, or a CSV")
    exported = exported_files(folder)
    _refuse_predicted(
        folder,
        [name for name, path, label in images if is_predicted_image(path, label=label, exported=exported)],
    )
    return images


def _read_table(path: Path, run: RunStore | None, naming: Naming | None) -> LabelledSet:
    table = read_user_table(path, use="labels of crops", columns=())
    if not table.has("genus") or not (table.has("path") or table.has("slide_id", "object_id")):
        raise table.role.damaged(
            f"it has the columns {list_some(table.header, most=12) or 'none'}; expected path and genus, or slide_id, "
            "object_id and genus"
        )
    named = [row for row in table.rows if _clean(row["genus"])]
    _refuse_predicted(path, [row.location for row in named if is_predicted_row(row)])
    unlabelled = len(table.rows) - len(named)
    if table.has("path"):
        _refuse_repeats(path, [row["path"] for row in named])
        files, unnamed = _named(
            [(_shown(row["path"]), path.parent / row["path"], _clean(row["genus"])) for row in named], naming
        )
        labelled = _with_unnamed(_read_images(files, unlabelled=unlabelled), unnamed)
        well = {_shown(row["path"]): _clean(row["well"]) for row in named}
        wells = tuple(well[name] for name in labelled.names)
        return replace(labelled, wells=wells) if all(wells) else labelled
    if run is None:
        raise UsageError(f"{path} labels objects of a run; name it with --run")
    keys = [(row["slide_id"], row.object_id("object_id")) for row in named]
    _refuse_repeats(path, keys)
    pairs = [(*key, _clean(row["genus"])) for key, row in zip(keys, named, strict=True)]
    objects, unnamed = _named(pairs, naming)
    keys, names = (
        [(slide_id, object_id) for slide_id, object_id, _ in objects],
        [name for _, _, name in objects],
    )
    return _with_unnamed(_read_objects(run, keys, names, unlabelled=unlabelled), unnamed)


def _refuse_predicted(labels: Path, predicted: Sequence[str]) -> None:
    if predicted:
        raise UsageError(
            f"{labels} has {counted(len(predicted), 'name')} that a classifier predicted, the first {predicted[0]}; a "
            "head would learn and be measured by the errors of another one. Have a person look at each, and import "
            "them into a label set with `fossilray labels import` and --predicted checked"
        )


def _read_images(listed: Sequence[tuple[str, Path, str]], *, unlabelled: int) -> LabelledSet:
    pixels, shapes, names, genera, digests, unreadable = [], [], [], [], [], []
    for name, path, genus in listed:
        try:
            content = read_regular(path)
            image = read_image(content, name=name)
        except OSError as error:
            unreadable.append((name, error.strerror or type(error).__name__))
            continue
        except UsageError as error:
            unreadable.append((name, str(error)))
            continue
        height, width = image.shape[:2]
        shapes.append((width / max(width, height), height / max(width, height)))
        pixels.append(resize_to(image, size_px=LABELLED_CROP_PX))
        names.append(name)
        genera.append(genus)
        digests.append(hashlib.sha256(content).hexdigest())
    return _labelled(
        np.stack(pixels) if pixels else np.zeros((0, LABELLED_CROP_PX, LABELLED_CROP_PX, 3), np.uint8),
        np.array(shapes, np.float32).reshape(-1, 2),
        names,
        genera,
        digests,
        unreadable=unreadable,
        unlabelled=unlabelled,
    )


def _read_objects(
    run: RunStore, keys: Sequence[tuple[str, int]], genera: Sequence[str], *, unlabelled: int
) -> LabelledSet:
    from fossilray.store.query.connection import (
        connect,
        create_objects_view,
        load_crops,
        load_embeddings,
        query_table,
    )
    from fossilray.store.query.vectors import VectorBackbone

    con = connect(run)
    files = run.committed_files()
    create_objects_view(con, run, {slide_id: files[slide_id] for slide_id, _ in keys if slide_id in files})
    con.register(
        "labelled",
        pa.table(
            {
                "slide_id": pa.array([slide_id for slide_id, _ in keys], pa.string()),
                "object_id": pa.array([object_id for _, object_id in keys], pa.int32()),
                "label_row": pa.array(range(len(keys)), pa.int32()),
            }
        ),
    )
    table = query_table(
        con,
        "SELECT label_row, arrays, object_id, width_um, height_um, well FROM objects JOIN labelled "
        "USING (slide_id, object_id) ORDER BY label_row",
    )
    rows = table["label_row"].to_pylist()
    missing = [
        (_object_name(*keys[row]), "the run does not hold the object")
        for row in sorted(set(range(len(keys))) - set(rows))
    ]
    size = np.stack([table["width_um"].to_numpy(), table["height_um"].to_numpy()], axis=1)
    pixels = load_crops(run, table)
    backbone = VectorBackbone.of_run(run.read_run())
    labelled = _labelled(
        pixels,
        (size / np.maximum(size.max(axis=1, keepdims=True), 1e-6)).astype(np.float32),
        [_object_name(*keys[row]) for row in rows],
        [genera[row] for row in rows],
        [hashlib.sha256(crop.tobytes()).hexdigest() for crop in pixels],
        unreadable=missing,
        unlabelled=unlabelled,
    )
    labelled = replace(labelled, wells=tuple(_shown(well) for well in table["well"].to_pylist()))
    if not backbone.sha256 or not rows:
        return labelled
    return replace(labelled, vectors=load_embeddings(run, table), backbone_sha256=backbone.sha256)


def _labelled(
    pixels: NDArray[np.uint8],
    shape: NDArray[np.float32],
    names: Sequence[str],
    genera: Sequence[str],
    digests: Sequence[str],
    *,
    unreadable: Sequence[tuple[str, str]],
    unlabelled: int,
) -> LabelledSet:
    classes = tuple(sorted(set(genera)))
    number = {genus: row for row, genus in enumerate(classes)}
    label = np.array([number[genus] for genus in genera], np.int64)
    group = group_duplicates(pixels, digests)
    same_picture = _rows_of_groups(group)
    counts = Counter(genera)
    findings = LabelReport(
        unreadable=tuple(unreadable),
        unlabelled=unlabelled,
        singletons=tuple(genus for genus in classes if counts[genus] == 1),
        duplicates=tuple(tuple(names[row] for row in rows) for rows in same_picture.values()),
        conflicts=tuple(
            tuple(f"{names[row]} ({genera[row]})" for row in rows)
            for rows in same_picture.values()
            if len({genera[row] for row in rows}) > 1
        ),
    )
    return LabelledSet(LabelledCrops(pixels, shape, label, classes), tuple(names), group, findings)


def _rows_of_groups(group: NDArray[np.int64]) -> Mapping[int, list[int]]:
    """Return the rows of each group that has more than one."""
    rows: dict[int, list[int]] = {}
    for row, number in enumerate(group.tolist()):
        rows.setdefault(number, []).append(row)
    return {number: members for number, members in rows.items() if len(members) > 1}


def _refuse_repeats(path: Path, keys: Sequence[object]) -> None:
    repeated = [str(key) for key, count in Counter(keys).items() if count > 1]
    if repeated:
        raise UsageError(
            f"{path} labels {len(repeated)} rows more than once, the first {_shown(repeated[0])}; keep one row for each"
        )


def _object_name(slide_id: str, object_id: int) -> str:
    return _shown(f"{slide_id} #{object_id}")


def _clean(genus: str) -> str:
    """Return a class name as it is compared: macOS writes ø and é as two characters, other systems as one."""
    return _shown(unicodedata.normalize("NFC", unescape_formula(genus.strip())).strip())


def _shown(name: str) -> str:
    """Return a name that is safe for terminals, pages and JSON: bytes outside UTF-8 and control characters replaced."""
    return strip_control_characters(name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
