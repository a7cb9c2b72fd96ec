"""Labels in the files of annotators: folders of images, CSV tables, and projects of ParticleTrieur.

The formats of ParticleTrieur follow its source code (github.com/microfossil/particle-trieur: Particle.java,
Project.java, ClassificationMapAdapter.java, ExportMorphologyService.java): in a project, `images/image` with
`source/filename`, `classifications/classification` of `code` and `value`, `tags/tag` and `val_by`; in a table,
`filename` (or `image`) and `label`.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from xml.etree import ElementTree

from fossilray.core.errors import UsageError
from fossilray.core.formats import FileRole
from fossilray.core.formats.regular_file import read_regular
from fossilray.core.images import IMAGE_SUFFIXES
from fossilray.core.table_rows import TableRow
from fossilray.core.text import counted, list_some, strip_control_characters
from fossilray.core.user_table import parse_user_table
from fossilray.labels.label import Box, Scan
from fossilray.labels.label_set import LabelSet, is_label_set
from fossilray.labels.name_marks import exported_files, is_predicted_image, is_predicted_row
from fossilray.labels.occurrence import Occurrence, clean_text
from fossilray.labels.occurrence_cells import (
    BOX_COLUMNS,
    CHOSEN_BY,
    NAME_COLUMNS,
    box_of,
    occurrence_of_cell,
    occurrence_of_row,
    scan_of,
    time_of,
)

_IMAGE_COLUMNS = ("path", "file", "filename", "image", "dossier")
_WHO_COLUMNS = ("who", "validated_by", "labeled_by")
_MOST_BYTES = 512 * 1024 * 1024

_ImageRow = tuple[str, Occurrence | None, str | None, str, bool]
"""Image, occurrence, annotator, position, whether the name is predicted."""


@dataclass(frozen=True)
class ParsedLabel:
    """A label as it stands in a source."""

    slide_id: str
    object_id: int | None
    """None: an object that the detector missed."""
    occurrence: Occurrence
    who: str | None
    """The annotator; None if the source does not name one."""
    position: str
    """Line, image or file in the source, for messages."""
    box: Box | None = None
    """None: that of the object."""
    attempt: str = ""
    """The attempt that made the object; empty: that of the run."""
    scan: Scan = field(default_factory=Scan)
    at: str = ""
    run_digest: str = ""
    is_predicted: bool = False
    """Whether the source states that a head gave the name."""
    chosen_by: str = ""
    """How the object was chosen to be labelled; empty where it is not stated."""

    @property
    def shown(self) -> str:
        """The object, for messages."""
        identity = f"#{self.object_id}" if self.object_id is not None else f"missed at {self.box}"
        return strip_control_characters(f"{self.slide_id} {identity}")


@dataclass(frozen=True)
class ParsedLabels:
    """The labels of a source."""

    labels: tuple[ParsedLabel, ...]
    unlabelled: int
    """Number of rows or images without a label."""
    automatic: int
    """Number of images with a label of ParticleTrieur's classifier that no person validated; left out."""
    name: str
    sha256: str
    """Digest of the file; of a folder, digest of its sorted file names."""


def parse_labels(source: Path) -> ParsedLabels:
    """Read the labels in a folder of <taxon>/<image>, a table, a ParticleTrieur project (.xml), or a label set.

    The name of an image identifies its object: <slide_id>-<object_id>, as `suggest` and `crops` write it. A table has
    the columns slide_id, object_id and taxon, or a column of images (path, file, filename, image) and one of names
    (taxon, genus, label, class), and optionally those of `occurrence_of_row`, a box, an attempt and a scan. An object
    that the detector missed has a box and no object_id. A label set gives the current labels of all annotators.

    Raises:
        UsageError: the source is missing, is not one of these, or contains an image that does not name an object.
    """
    if is_label_set(source):
        return _read_label_set(source)
    if source.is_dir():
        return _read_folder(source)
    remedy = "give a folder of <genus>/<image>, a CSV or a ParticleTrieur project"
    try:
        content = read_regular(source, most_bytes=_MOST_BYTES)
    except FileNotFoundError:
        raise UsageError(f"{source} does not exist; {remedy}") from None
    except OSError as error:
        raise FileRole(str(source), "labels of objects", remedy, UsageError).damaged(error) from None
    if len(content) > _MOST_BYTES:
        raise UsageError(
            f"{source} has more than {_MOST_BYTES // 2**20} MB, more than labels take; name another file"
        )
    read = _read_project if source.suffix.lower() == ".xml" else _read_table
    return read(source, content, hashlib.sha256(content).hexdigest())


def _read_label_set(folder: Path) -> ParsedLabels:
    merged = LabelSet.open(folder).labels()
    labels = tuple(
        ParsedLabel(
            label.slide_id,
            label.object_id,
            label.occurrence,
            label.who,
            label.shown,
            label.box,
            label.attempt,
            label.scan,
            label.at,
            label.run_digest,
            chosen_by=label.chosen_by,
        )
        for labels in merged.by_object.values()
        for label in labels
    )
    digest = hashlib.sha256("".join(record.source_sha256 for record in LabelSet(folder).rounds()).encode())
    return ParsedLabels(labels, 0, 0, folder.name, digest.hexdigest())


def object_of(name: str) -> tuple[str, int] | None:
    """Return slide_id and object_id from the name or path of an image (POSIX or Windows); None if it has neither."""
    stem = re.split(r"[\\/]", name)[-1].rpartition(".")[0]
    match = re.fullmatch(r"(.+)-(\d{6,10})", stem)
    return (match[1], int(match[2])) if match and int(match[2]) < 2**31 else None


def _read_folder(folder: Path) -> ParsedLabels:
    names = sorted(
        str(path.relative_to(folder))
        for path in folder.glob("**/*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
    if not names:
        raise UsageError(f"{folder} holds no <genus>/<image> files; sort images into one folder per genus")
    exported = exported_files(folder)
    rows: list[_ImageRow] = []
    for name in names:
        parts = Path(name).parts
        label = parts[-2] if len(parts) > 1 else ""
        is_predicted = is_predicted_image(folder / name, label=label, exported=exported)
        rows.append((name, occurrence_of_cell(label), None, name, is_predicted))
    digest = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    return _by_image(folder, rows, automatic=0, digest=digest)


def _read_table(path: Path, content: bytes, digest: str) -> ParsedLabels:
    role = FileRole(str(path), "labels of objects", "correct it and start the same command again", UsageError)
    # ParticleTrieur writes decimal commas in French, unquoted: such rows have more cells than columns.
    table = parse_user_table(content, role, columns=(), extra_cells=True)
    name, image = table.first_of(NAME_COLUMNS), table.first_of(_IMAGE_COLUMNS)
    is_keyed = table.has("slide_id", "object_id")
    stated = name or ("kind" if table.has("kind") else None)
    if stated is None or not (is_keyed or image is not None):
        raise role.damaged(
            f"it has the columns {list_some(table.header, most=12) or 'none'}; expected slide_id, object_id and taxon "
            "(or genus), or the image (path, file, filename or image) and its name (taxon, genus, label or class)"
        )
    needed = [stated, "slide_id", "object_id"] if is_keyed else [stated, image or stated]
    last_needed = max(table.position(column) or 0 for column in needed)
    for row in table.rows:
        if row.written_cells <= last_needed:
            raise row.error(f"it has {counted(row.written_cells, 'cell')}, too few")
    if not is_keyed:
        assert image is not None
        listed = [
            (row[image], _occurrence(row), _annotator(row), row.location, is_predicted_row(row))
            for row in table.rows
        ]
        return _by_image(path, listed, automatic=0, digest=digest)
    labels = [label for row in table.rows if (label := _label_of_row(row)) is not None]
    return _without_repeats(
        path, labels, unlabelled=len(table.rows) - len(labels), automatic=0, digest=digest
    )


def _occurrence(row: TableRow) -> Occurrence | None:
    """Return the occurrence of a row; only its name if the row's cells are shifted."""
    if row.written_cells > len(row.table.header):
        return occurrence_of_cell(row[row.table.first_of(NAME_COLUMNS) or ""])
    return occurrence_of_row(row)


def _label_of_row(row: TableRow) -> ParsedLabel | None:
    occurrence = _occurrence(row)
    if occurrence is None:
        return None
    is_shifted = row.written_cells > len(row.table.header)
    box = None if is_shifted else box_of(row)
    if not row["slide_id"]:
        raise row.error("slide_id is empty", "slide_id")
    object_id = row.object_id("object_id") if row["object_id"] else None
    if object_id is None and box is None:
        raise row.error(
            "it names no object; fill in object_id or, for an object that the detector missed, its box "
            f"({', '.join(BOX_COLUMNS)})",
            "object_id",
        )
    if object_id is None and occurrence.kind == "no object":
        raise row.error(
            "kind is 'no object', which strikes out the box of an object; fill in object_id", "object_id"
        )
    label = ParsedLabel(
        row["slide_id"],
        object_id,
        occurrence,
        _annotator(row),
        row.location,
        is_predicted=is_predicted_row(row),
    )
    if is_shifted:
        return label
    return replace(
        label,
        box=box,
        attempt=row["attempt"],
        scan=scan_of(row),
        at=time_of(row),
        chosen_by=clean_text(row[CHOSEN_BY]),
    )


def _annotator(row: TableRow) -> str | None:
    """Return the annotator of a row; None if no column names one, or if the row's cells are shifted."""
    if row.written_cells > len(row.table.header):
        return None
    return next(filter(None, (row[column] for column in _WHO_COLUMNS)), None)


def _read_project(path: Path, content: bytes, digest: str) -> ParsedLabels:
    # Entities let a small XML file fill the memory or read other files; ParticleTrieur writes none.
    if re.search(rb"<!\s*(DOCTYPE|ENTITY)", content.replace(b"\0", b""), re.IGNORECASE):
        raise UsageError(
            f"{path} declares entities, which a ParticleTrieur project never does; it was not read"
        )
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UsageError(f"{path} is not XML ({error}); give a ParticleTrieur project") from None
    if root.tag != "project" or root.find("images") is None:
        raise UsageError(
            f"{path} is not a ParticleTrieur project: it has <{strip_control_characters(root.tag)[:40]}> "
            "instead of <project> with <images>"
        )
    rows, automatic = [], 0
    for number, image in enumerate(root.iterfind("images/image"), 1):
        validated = (image.findtext("val_by") or "").strip()
        code = _best_code(image)
        tags = {(tag.text or "").strip() for tag in image.iterfind("tags/tag")}
        if "auto" in tags and not validated and occurrence_of_cell(code) is not None:
            automatic += 1
            continue
        name = image.findtext("source/filename") or ""
        rows.append((name, occurrence_of_cell(code), validated or None, f"image {number}", False))
    return _by_image(path, rows, automatic=automatic, digest=digest)


def _best_code(image: ElementTree.Element) -> str:
    """Return the code with the largest value, the first of equal ones, as ParticleTrieur shows it."""
    best, best_value = "", float("-inf")
    for classification in image.iterfind("classifications/classification"):
        try:
            value = float(classification.findtext("value") or "0")
        except ValueError:
            value = 0.0
        if value > best_value:
            best, best_value = classification.findtext("code") or "", value
    return best


def _by_image(source: Path, rows: Sequence[_ImageRow], *, automatic: int, digest: str) -> ParsedLabels:
    """Labels of rows of images."""
    labels, nameless = [], []
    for image, occurrence, who, position, is_predicted in rows:
        if occurrence is None:
            continue
        key = object_of(image)
        if key is None:
            nameless.append(image)
        else:
            labels.append(ParsedLabel(*key, occurrence, who, position, is_predicted=is_predicted))
    if nameless:
        raise UsageError(
            f"{source}: {len(nameless)} labelled images do not name an object: "
            f"{list_some(map(strip_control_characters, nameless), most=10, separator='; ')}; "
            "the name of an image must end in <slide_id>-<object_id>, as `suggest` wrote it; restore the names, or "
            "give a table of slide_id, object_id and taxon"
        )
    return _without_repeats(
        source, labels, unlabelled=len(rows) - len(labels), automatic=automatic, digest=digest
    )


def _without_repeats(
    source: Path, labels: list[ParsedLabel], *, unlabelled: int, automatic: int, digest: str
) -> ParsedLabels:
    """Return each label once; the same person may label an object again only in the same words.

    Raises:
        UsageError: an annotator gives one object two labels.
    """
    once: dict[object, ParsedLabel] = {}
    contradicted: Counter[str] = Counter()
    for label in labels:
        identity = label.box if label.object_id is None else label.object_id
        first = once.setdefault((label.slide_id, identity, label.attempt, label.who), label)
        if first.occurrence != label.occurrence:
            contradicted[
                f"{label.shown} is {_difference(first, label)} ({first.position}) and {_difference(label, first)} "
                f"({label.position})"
            ] += 1
    if contradicted:
        raise UsageError(
            f"{source} gives {len(contradicted)} objects two labels: "
            f"{list_some(map(strip_control_characters, contradicted), most=10, separator='; ')}; keep one for each"
        )
    return ParsedLabels(tuple(once.values()), unlabelled, automatic, source.name, digest)


def _difference(label: ParsedLabel, other: ParsedLabel) -> str:
    """Return the name of a label if the other has another one, else the fields in which it differs."""
    if label.occurrence.shown != other.occurrence.shown:
        return label.occurrence.shown
    ours, theirs = vars(label.occurrence), vars(other.occurrence)
    return ", ".join(f"{name} {ours[name] or 'empty'}" for name in ours if ours[name] != theirs[name])
