"""Labels in the files of annotators: folders of images, CSV tables, and projects of ParticleTrieur.

The formats of ParticleTrieur follow its source code (github.com/microfossil/particle-trieur: Particle.java,
Project.java, ClassificationMapAdapter.java, ExportMorphologyService.java): in a project, `images/image` with
`source/filename`, `classifications/classification` of `code` and `value`, `tags/tag` and `val_by`; in a table,
`filename` (or `image`) and `label`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from fossilray.core.errors import UsageError
from fossilray.core.formats import FileRole
from fossilray.core.formats.regular_file import read_regular
from fossilray.core.images import IMAGE_SUFFIXES
from fossilray.core.table_rows import TableRow
from fossilray.core.text import counted, list_some, strip_control_characters, unescape_formula
from fossilray.core.user_table import parse_user_table

NO_LABELS = ("", "unlabeled", "unlabelled", "unsure", "crops")
"""Names that stand for a missing label: those of ParticleTrieur, and the folder that `suggest` writes."""

_IMAGE_COLUMNS = ("path", "file", "filename", "image", "dossier")
_GENUS_COLUMNS = ("genus", "label", "class")
_WHO_COLUMNS = ("who", "validated_by", "labeled_by")
_MOST_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True)
class ParsedLabel:
    """A label as it stands in a source."""

    slide_id: str
    object_id: int
    genus: str
    who: str | None
    """The annotator; None if the source does not name one."""
    position: str
    """Line, image or file in the source, for messages."""


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
    """Read the labels in a folder of <genus>/<image>, a CSV, or a ParticleTrieur project (.xml).

    The name of an image identifies its object: <slide_id>-<object_id>, as `suggest` and `crops` write it. A CSV has
    the columns slide_id, object_id and genus, or a column of images (path, file, filename, image) and one of genera
    (genus, label, class).

    Raises:
        UsageError: the source is missing, is not one of these, or contains an image that does not name an object.
    """
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


def clean_genus(text: str) -> str:
    """Return a genus in the form in which genera are compared: composed (NFC), stripped, printable."""
    return strip_control_characters(unicodedata.normalize("NFC", unescape_formula(text.strip())).strip())


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
    rows: list[tuple[str, str, str | None, str]] = []
    for name in names:
        parts = Path(name).parts
        rows.append((name, parts[-2] if len(parts) > 1 else "", None, name))
    digest = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    return _by_image(folder, rows, automatic=0, digest=digest)


def _read_table(path: Path, content: bytes, digest: str) -> ParsedLabels:
    role = FileRole(str(path), "labels of objects", "correct it and start the same command again", UsageError)
    # ParticleTrieur writes decimal commas in French, unquoted: such rows have more cells than columns.
    table = parse_user_table(content, role, columns=(), extra_cells=True)
    genus, image = table.first_of(_GENUS_COLUMNS), table.first_of(_IMAGE_COLUMNS)
    is_keyed = table.has("slide_id", "object_id")
    if genus is None or not (is_keyed or image is not None):
        raise role.damaged(
            f"it has the columns {list_some(table.header, most=12) or 'none'}; expected slide_id, object_id and genus, "
            "or the image (path, file, filename or image) and its name (genus, label or class)"
        )
    needed = [genus, "slide_id", "object_id"] if is_keyed else [genus, image or genus]
    last_needed = max(table.position(column) or 0 for column in needed)
    for row in table.rows:
        if row.written_cells <= last_needed:
            raise row.error(f"it has {counted(row.written_cells, 'cell')}, too few")
    if not is_keyed:
        assert image is not None
        listed = [(row[image], row[genus], _annotator(row), row.location) for row in table.rows]
        return _by_image(path, listed, automatic=0, digest=digest)
    labels = [
        ParsedLabel(
            row["slide_id"],
            row.object_id("object_id"),
            clean_genus(row[genus]),
            _annotator(row),
            row.location,
        )
        for row in table.rows
        if _is_label(row[genus])
    ]
    return _without_repeats(
        path, labels, unlabelled=len(table.rows) - len(labels), automatic=0, digest=digest
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
        if "auto" in tags and not validated and _is_label(code):
            automatic += 1
            continue
        rows.append((image.findtext("source/filename") or "", code, validated or None, f"image {number}"))
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


def _by_image(
    source: Path, rows: list[tuple[str, str, str | None, str]], *, automatic: int, digest: str
) -> ParsedLabels:
    """Labels of rows of (image, genus, annotator, position)."""
    labels, nameless = [], []
    for image, genus, who, position in rows:
        if not _is_label(genus):
            continue
        key = object_of(image)
        if key is None:
            nameless.append(image)
        else:
            labels.append(ParsedLabel(*key, clean_genus(genus), who, position))
    if nameless:
        raise UsageError(
            f"{source}: {len(nameless)} labelled images do not name an object: "
            f"{list_some(map(strip_control_characters, nameless), most=10, separator='; ')}; "
            "the name of an image must end in <slide_id>-<object_id>, as `suggest` wrote it; restore the names, or "
            "give a CSV of slide_id, object_id and genus"
        )
    return _without_repeats(
        source, labels, unlabelled=len(rows) - len(labels), automatic=automatic, digest=digest
    )


def _without_repeats(
    source: Path, labels: list[ParsedLabel], *, unlabelled: int, automatic: int, digest: str
) -> ParsedLabels:
    """Return each label once.

    Raises:
        UsageError: an annotator gives one object two genera.
    """
    once: dict[tuple[str, int, str | None], ParsedLabel] = {}
    contradicted: Counter[str] = Counter()
    for label in labels:
        first = once.setdefault((label.slide_id, label.object_id, label.who), label)
        if first.genus != label.genus:
            contradicted[
                f"{label.slide_id} #{label.object_id} is {first.genus} ({first.position}) and {label.genus} "
                f"({label.position})"
            ] += 1
    if contradicted:
        raise UsageError(
            f"{source} gives {len(contradicted)} objects two genera: "
            f"{list_some(map(strip_control_characters, contradicted), most=10, separator='; ')}; keep one for each"
        )
    return ParsedLabels(tuple(once.values()), unlabelled, automatic, source.name, digest)


def _is_label(genus: str) -> bool:
    return clean_genus(genus).lower() not in NO_LABELS
