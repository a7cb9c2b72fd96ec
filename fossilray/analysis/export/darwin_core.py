"""A Darwin Core archive: one occurrence for each object that has a name.

By the Darwin Core text guide (TDWG 2023) it is a zip of occurrence.txt, of meta.xml, which maps its columns to terms of
http://rs.tdwg.org/dwc/terms/, and of eml.xml, which describes the data set (Ecological Metadata Language 2.1.1, in the
profile of GBIF).
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from fossilray.analysis.export.occurrences import ObjectOccurrence, OccurrenceSource
from fossilray.analysis.export.selection import CORNERS, ExportResult
from fossilray.analysis.specimens.citation import interval_of
from fossilray.analysis.specimens.link import link_to
from fossilray.analysis.specimens.specimens import centre_in_scan
from fossilray.core.atomic_files import write_atomically
from fossilray.core.errors import UsageError
from fossilray.core.records import UNASSIGNED_WELL, utc_now

DWC = "http://rs.tdwg.org/dwc/terms/"
OCCURRENCE_TERMS = (
    *("occurrenceID", "basisOfRecord", "occurrenceStatus", "catalogNumber", "individualCount"),
    *("scientificName", "identificationQualifier", "identifiedBy", "dateIdentified"),
    *("identificationRemarks", "identificationVerificationStatus", "eventID", "samplingProtocol"),
    *("locality", "minimumDepthInMeters", "maximumDepthInMeters", "verbatimDepth", "preparations"),
    *("occurrenceRemarks", "dynamicProperties"),
)
"""Columns of occurrence.txt, terms of Darwin Core; the first identifies the row."""

_TEXT, _EML = "http://rs.tdwg.org/dwc/text/", "eml://ecoinformatics.org/eml-2.1.1"
_OCCURRENCES = "occurrence.txt"


@dataclass(frozen=True)
class DatasetDescription:
    """What eml.xml states about the data set."""

    title: str
    creator: str
    """Person or organisation."""
    licence: str
    """Text or URL."""


def export_darwin_core(source: OccurrenceSource, out: Path, description: DatasetDescription) -> ExportResult:
    """Write the archive; objects without a name are left out and counted.

    Raises:
        UsageError: the file has another name than .zip, or cannot be written.
    """
    if out.suffix.lower() != ".zip":
        raise UsageError(f"{out} is no .zip; name the archive so")
    written = unnamed = 0
    text = io.StringIO()
    text.write("\t".join(OCCURRENCE_TERMS) + "\n")
    for summary in source.selection.slides:
        for occurrence in source.of_slide(summary):
            if occurrence.name is None:
                unnamed += 1
                continue
            text.write("\t".join(map(_in_line, _cells(occurrence))) + "\n")
            written += 1
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("meta.xml", _meta())
        archive.writestr("eml.xml", _eml(description, source))
        archive.writestr(_OCCURRENCES, text.getvalue().encode())
    write_atomically(out, sink.getvalue())
    return ExportResult(written, without_genus=unnamed)


def _cells(occurrence: ObjectOccurrence) -> Iterator[object]:
    slide, row, name = occurrence.slide, occurrence.row, occurrence.name
    assert name is not None
    box = tuple(row[corner] for corner in CORNERS)
    x_mm, y_mm = centre_in_scan(slide, box)
    top, base = interval_of(slide)
    is_predicted = occurrence.source == "prediction"
    properties = {
        "boxLevel0Px": list(box),
        "scanMm": [round(x_mm, 4), round(y_mm, 4)],
        "widthUm": round(row["width_um"], 2),
        "heightUm": round(row["height_um"], 2),
    }
    yield link_to(slide, (box[0], box[1], box[2], box[3]))
    yield "FossilSpecimen"
    yield "present"
    yield f"{slide.slide_id}:{row['object_id']}"
    yield 1
    yield name.taxon
    yield name.qualifier
    yield occurrence.identified_by
    yield occurrence.identified_at
    yield f"predicted with the score {row['genus_score']:.3f}" if is_predicted else ""
    yield "unverified: a classifier's prediction" if is_predicted else "identified by a person"
    yield slide.slide_id
    yield slide.sample_type
    yield "" if slide.well == UNASSIGNED_WELL else slide.well
    yield top
    yield base
    yield "" if top is None else f"{top:.10g} to {base:.10g} m of measured depth"
    yield "; ".join(filter(None, ("microscope slide", slide.preparation)))
    yield "; ".join(filter(None, (name.situation, occurrence.remark)))
    yield json.dumps(properties)


def _in_line(cell: object) -> str:
    """A cell without what ends cells and lines."""
    return "" if cell is None else " ".join(str(cell).split())


def _meta() -> bytes:
    ElementTree.register_namespace("", _TEXT)
    archive = ElementTree.Element(f"{{{_TEXT}}}archive", metadata="eml.xml")
    core = ElementTree.SubElement(
        archive,
        f"{{{_TEXT}}}core",
        encoding="UTF-8",
        fieldsTerminatedBy="\\t",
        linesTerminatedBy="\\n",
        fieldsEnclosedBy="",
        ignoreHeaderLines="1",
        rowType=f"{DWC}Occurrence",
    )
    files = ElementTree.SubElement(core, f"{{{_TEXT}}}files")
    ElementTree.SubElement(files, f"{{{_TEXT}}}location").text = _OCCURRENCES
    ElementTree.SubElement(core, f"{{{_TEXT}}}id", index="0")
    for index, term in enumerate(OCCURRENCE_TERMS):
        ElementTree.SubElement(core, f"{{{_TEXT}}}field", index=str(index), term=f"{DWC}{term}")
    return _xml(archive)


def _eml(description: DatasetDescription, source: OccurrenceSource) -> bytes:
    ElementTree.register_namespace("eml", _EML)
    now = utc_now()
    digest = source.selection.store.read_run().digest
    root = ElementTree.Element(
        f"{{{_EML}}}eml",
        {
            "packageId": f"fossilray-{digest[:16]}/{now}",
            "system": "fossilray",
            "scope": "system",
            "{http://www.w3.org/XML/1998/namespace}lang": "eng",
        },
    )
    dataset = ElementTree.SubElement(root, "dataset")
    _add(dataset, "title", description.title)
    for role in ("creator", "metadataProvider"):
        _add(ElementTree.SubElement(dataset, role), "organizationName", description.creator)
    _add(dataset, "pubDate", now[:10])
    _add(dataset, "language", "eng")
    abstract = (
        "Microfossils that were detected on scanned microscope slides, an occurrence for each object. Names are those "
        f"of {source.basis}. Depths are measured depths in wells."
    )
    _add(ElementTree.SubElement(dataset, "abstract"), "para", abstract)
    _add(ElementTree.SubElement(dataset, "intellectualRights"), "para", description.licence)
    _add(ElementTree.SubElement(dataset, "contact"), "organizationName", description.creator)
    return _xml(root)


def _add(parent: ElementTree.Element, tag: str, text: str) -> None:
    ElementTree.SubElement(parent, tag).text = text


def _xml(root: ElementTree.Element) -> bytes:
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
