"""Labels as people hand them in: folders of images, tables, and projects of ParticleTrieur.

What ParticleTrieur writes is told by its source (github.com/microfossil/particle-trieur: Particle.java, Project.java,
ClassificationMapAdapter.java, ExportMorphologyService.java): in a project, `images/image` with `source/filename`,
`classifications/classification` of `code` and `value`, `tags/tag` and `val_by`; in a table, `filename` (or `image`) and
`label`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from fossilray.core.csv_table import CsvRow, parse_csv_table
from fossilray.core.errors import UsageError
from fossilray.core.formats import FileRole
from fossilray.core.images import IMAGE_SUFFIXES
from fossilray.core.text import counted, list_some, strip_control_characters, unescape_formula

NO_LABELS = ("", "unlabeled", "unlabelled", "unsure", "crops")
"""Names that say that nobody labelled yet: ParticleTrieur's own, and the folder that `suggest` fills."""

_IMAGE_COLUMNS = ("path", "file", "filename", "image", "dossier")
_GENUS_COLUMNS = ("genus", "label", "class")
_WHO_COLUMNS = ("who", "validated_by", "labeled_by")
_MOST_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True)
class GivenLabel:
    """A label as it was handed in, with the place to name when it is wrong."""

    slide_id: str
    object_id: int
    genus: str
    who: str | None
    place: str
    """Where in the source it stands."""


@dataclass(frozen=True)
class GivenLabels:
    """All that a source holds."""

    labels: tuple[GivenLabel, ...]
    unlabelled: int
    """Rows or images that nobody has labelled yet."""
    automatic: int
    """Images that ParticleTrieur labelled itself and nobody validated; left out."""
    name: str
    sha256: str
    """Of the file; of a folder, of its sorted file names."""


def parse_labels(source: Path) -> GivenLabels:
    """The labels in a folder of <genus>/<image>, a CSV, or a ParticleTrieur project (.xml).

    An image leads to its object by its name, <slide_id>-<object_id>, as `suggest` and `crops` write it. A CSV has the
    columns slide_id, object_id and genus, or one with images (path, file, filename, image) and one with names (genus,
    label, class).

    Raises:
        UsageError: it is none of these, or images in it do not name objects.
    """
    if source.is_dir():
        return _read_folder(source)
    if not source.is_file():
        raise UsageError(
            f"{source} does not exist; give a folder of <genus>/<image>, a CSV or a ParticleTrieur project"
        )
    if source.stat().st_size > _MOST_BYTES:
        raise UsageError(
            f"{source} has more than {_MOST_BYTES // 2**20} MB, more than labels take; name another file"
        )
    content = source.read_bytes()
    read = _read_project if source.suffix.lower() == ".xml" else _read_csv
    return read(source, content, hashlib.sha256(content).hexdigest())


def clean_genus(text: str) -> str:
    """A genus as it is compared: composed, without blanks around it, printable."""
    return strip_control_characters(unicodedata.normalize("NFC", unescape_formula(text.strip())).strip())


def object_of(name: str) -> tuple[str, int] | None:
    """The slide_id and object_id that an image's name or path leads to, on any system's paths; None: to no object."""
    stem = re.split(r"[\\/]", name)[-1].rpartition(".")[0]
    found = re.fullmatch(r"(.+)-(\d{6,10})", stem)
    return (found[1], int(found[2])) if found and int(found[2]) < 2**31 else None


def _read_folder(folder: Path) -> GivenLabels:
    names = sorted(
        str(path.relative_to(folder))
        for path in folder.glob("**/*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
    if not names:
        raise UsageError(f"{folder} holds no <genus>/<image> files; sort images into one folder a genus")
    rows: list[tuple[str, str, str | None, str]] = []
    for name in names:
        parts = Path(name).parts
        rows.append((name, parts[-2] if len(parts) > 1 else "", None, name))
    digest = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    return _by_image(folder, rows, automatic=0, digest=digest)


def _read_csv(path: Path, content: bytes, digest: str) -> GivenLabels:
    role = FileRole(str(path), "labels of objects", "correct it, or save it again as `CSV UTF-8`", UsageError)
    # ParticleTrieur writes decimal commas in French, unquoted: such rows have more cells than columns.
    table = parse_csv_table(content, role, columns=(), extra_cells=True)
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
        listed = [(row[image], row[genus], _annotator(row), f"line {row.line}") for row in table.rows]
        return _by_image(path, listed, automatic=0, digest=digest)
    labels = [
        GivenLabel(
            row["slide_id"],
            row.object_id("object_id"),
            clean_genus(row[genus]),
            _annotator(row),
            f"line {row.line}",
        )
        for row in table.rows
        if _is_label(row[genus])
    ]
    return _given(path, labels, unlabelled=len(table.rows) - len(labels), automatic=0, digest=digest)


def _annotator(row: CsvRow) -> str | None:
    """The person who gave a label; None if no column names one, or if the row's cells are shifted."""
    if row.written_cells > len(row.table.header):
        return None
    return next(filter(None, (row[column] for column in _WHO_COLUMNS)), None)


def _read_project(path: Path, content: bytes, digest: str) -> GivenLabels:
    # Entities are how an XML file of a few bytes fills memory, or reads other files; ParticleTrieur writes none.
    if re.search(rb"<!\s*(DOCTYPE|ENTITY)", content.replace(b"\0", b""), re.IGNORECASE):
        raise UsageError(f"{path} declares entities, which no ParticleTrieur project does; it is not read")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UsageError(f"{path} is not XML ({error}); give a ParticleTrieur project") from None
    if root.tag != "project" or root.find("images") is None:
        raise UsageError(
            f"{path} is no ParticleTrieur project: it has <{strip_control_characters(root.tag)[:40]}> "
            "where one has <project> with <images>"
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
    """The code of the largest value, the first of equal ones, as ParticleTrieur itself shows it."""
    best, most = "", float("-inf")
    for one in image.iterfind("classifications/classification"):
        try:
            value = float(one.findtext("value") or "0")
        except ValueError:
            value = 0.0
        if value > most:
            best, most = one.findtext("code") or "", value
    return best


def _by_image(
    source: Path, rows: list[tuple[str, str, str | None, str]], *, automatic: int, digest: str
) -> GivenLabels:
    """Labels of (image, genus, who, place)."""
    labels, strange = [], []
    for image, genus, who, place in rows:
        if not _is_label(genus):
            continue
        found = object_of(image)
        if found is None:
            strange.append(image)
        else:
            labels.append(GivenLabel(*found, clean_genus(genus), who, place))
    if strange:
        raise UsageError(
            f"{source}: {len(strange)} labelled images name no object: "
            f"{list_some(map(strip_control_characters, strange), most=10, separator='; ')}; "
            "an image's name must end as `suggest` wrote it, <slide_id>-<object_id>, so put back the names or give a "
            "CSV of slide_id, object_id and genus"
        )
    return _given(source, labels, unlabelled=len(rows) - len(labels), automatic=automatic, digest=digest)


def _given(
    source: Path, labels: list[GivenLabel], *, unlabelled: int, automatic: int, digest: str
) -> GivenLabels:
    """The labels once each, if none contradicts another of the same person."""
    once: dict[tuple[str, int, str | None], GivenLabel] = {}
    contradicted: Counter[str] = Counter()
    for one in labels:
        first = once.setdefault((one.slide_id, one.object_id, one.who), one)
        if first.genus != one.genus:
            contradicted[
                f"{one.slide_id} #{one.object_id} is {first.genus} ({first.place}) and {one.genus} ({one.place})"
            ] += 1
    if contradicted:
        raise UsageError(
            f"{source} gives {len(contradicted)} objects two names: "
            f"{list_some(map(strip_control_characters, contradicted), most=10, separator='; ')}; keep one of each"
        )
    return GivenLabels(tuple(once.values()), unlabelled, automatic, source.name, digest)


def _is_label(genus: str) -> bool:
    return clean_genus(genus).lower() not in NO_LABELS
