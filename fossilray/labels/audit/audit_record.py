"""Records of audits: which objects were drawn, from which strata and with what weight, of the calls of which head.

The folder of an audit has `audit.json`, the record, and `draws.parquet`, one row per draw, in random order. Both are
there before anything is labelled, and are never changed.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fossilray.core.errors import UsageError
from fossilray.core.formats import FileRole, parse_record
from fossilray.core.formats.parquet import read_table
from fossilray.core.formats.regular_file import read_regular
from fossilray.labels.audit.allocation import Stratum

AUDIT_JSON = "audit.json"
AUDIT_DRAWS = "draws.parquet"
AUDIT_FORMAT = "fossilray-audit/1"
_AUDIT = "audit"
_ID_DIGITS = 12
_INCLUSION = "inclusion"
"""Column with the expected number of draws of the object."""
_MAX_BYTES = 256 * 2**20

_DRAWS_SCHEMA = pa.schema(
    [
        pa.field("slide_id", pa.string(), nullable=False),
        pa.field("object_id", pa.int32(), nullable=False),
        pa.field("attempt", pa.string(), nullable=False),
        pa.field("well", pa.string(), nullable=False),
        pa.field("measured_depth_m", pa.float64()),
        pa.field("call", pa.string(), nullable=False),
        pa.field("stratum", pa.int32(), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
        pa.field(_INCLUSION, pa.float64(), nullable=False),
        pa.field("is_marked", pa.bool_(), nullable=False),
    ]
)


@dataclass(frozen=True)
class AuditPopulation:
    """The calls that an audit is about; a field is empty or None where the population is not limited by it."""

    well: str | None = None
    where: str | None = None
    """SQL condition on the columns of `objects`."""
    left_out: tuple[str, ...] = ()
    """Called taxa that are left out."""
    wrong: float | None = None
    """Share of wrong calls that `fossilray calls --wrong` accepted: only calls that it keeps."""
    wrong_p: float | None = None
    """Highest p-value that is kept; with `wrong`."""
    novelty_p: float | None = None
    """Novelty p-value up to which objects are novel, and not kept; with `wrong`."""
    label_set: str | None = None
    """Name of the label set whose objects are left out."""
    label_version: int | None = None

    def describe(self) -> str:
        """Return the population as a noun phrase."""
        limits: dict[str, object] = {
            f"of the well {self.well}": self.well,
            f"that meet {self.where!r}": self.where,
            f"without those of {', '.join(self.left_out)}": self.left_out,
            f"without a label in {self.label_set}, version {self.label_version}": self.label_set,
        }
        if self.wrong is not None:
            limits[f"kept at --wrong {self.wrong:g} --novelty-p {self.novelty_p:g}"] = True
        return ", ".join(["all calls", *(text for text, is_set in limits.items() if is_set)])


@dataclass(frozen=True)
class AuditRecord:
    """What was drawn from what."""

    format: str
    created_at: str
    """UTC, ISO 8601."""
    run: str
    run_digest: str
    predictions: str
    """Name of the predictions."""
    head_sha256: str
    population: AuditPopulation
    objects: int
    """Calls in the population."""
    strata: tuple[Stratum, ...]
    seed: int
    draws_sha256: str
    """Of draws.parquet."""

    @property
    def id(self) -> str:
        """Digest of the record without its time, in 12 hexadecimal digits: equal draws have equal ids."""
        fields = {name: value for name, value in asdict(self).items() if name not in ("created_at", "run")}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:_ID_DIGITS]

    @property
    def chosen_by(self) -> str:
        """The mark of labels of this audit: they are of a random sample."""
        return f"{_AUDIT} {self.id}"


@dataclass(frozen=True)
class AuditDraw:
    """One draw; of an object on the border of two zones there may be two."""

    slide_id: str
    object_id: int
    attempt: str
    """The attempt that made the object."""
    well: str
    measured_depth_m: float | None
    call: str
    """What the head called it."""
    stratum: int
    """Position in the record's strata."""
    weight: float
    """Number of objects that the draw stands for; its reciprocal is the expected number of draws of the object."""
    is_marked: bool
    """Whether it is one of the draws that represent the whole population with equal weights."""

    @property
    def key(self) -> tuple[str, int]:
        """slide_id and object_id."""
        return self.slide_id, self.object_id


@dataclass(frozen=True)
class Audit:
    """The record of an audit and its draws, in the random order in which they are to be labelled."""

    record: AuditRecord
    draws: tuple[AuditDraw, ...]

    @property
    def objects(self) -> tuple[tuple[str, int], ...]:
        """(slide_id, object_id) of the drawn objects, each once, in the order of their first draws."""
        return tuple(dict.fromkeys(draw.key for draw in self.draws))


def encode_draws(draws: Sequence[AuditDraw]) -> bytes:
    """Return the file of the draws."""
    sink = io.BytesIO()
    rows = [{**asdict(draw), _INCLUSION: 1 / draw.weight} for draw in draws]
    table = pa.Table.from_pylist(rows, schema=_DRAWS_SCHEMA)
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def encode_audit_record(record: AuditRecord) -> bytes:
    """Return the file of a record."""
    return json.dumps(asdict(record), indent=2).encode() + b"\n"


def is_audit(folder: Path) -> bool:
    """Return whether a folder holds an audit."""
    return (folder / AUDIT_JSON).is_file()


def read_audit(folder: Path) -> Audit:
    """Read the audit of a folder.

    Raises:
        UsageError: the folder holds none.
        StoreError: its files are damaged, or do not belong together.
    """
    if not is_audit(folder):
        raise UsageError(f"{folder} holds no audit; `fossilray audit draw … --out {folder}` makes one")
    remedy = "bring the folder back from a copy, or draw another audit"
    role = FileRole(str(folder / AUDIT_JSON), "the record of an audit", remedy)
    record = parse_record(AuditRecord, _content(folder / AUDIT_JSON, role), role)
    if record.format != AUDIT_FORMAT:
        raise role.damaged(f"its format is {record.format!r:.40}, not {AUDIT_FORMAT}")
    role = FileRole(str(folder / AUDIT_DRAWS), "the draws of an audit", remedy)
    content = _content(folder / AUDIT_DRAWS, role)
    if hashlib.sha256(content).hexdigest() != record.draws_sha256:
        raise role.damaged(f"it is not the file that {AUDIT_JSON} describes")
    table = read_table(content, role, schema=_DRAWS_SCHEMA).drop_columns([_INCLUSION])
    draws = tuple(AuditDraw(**row) for row in table.to_pylist())
    counts = [sum(draw.stratum == number for draw in draws) for number in range(len(record.strata))]
    if len(draws) != sum(counts) or counts != [stratum.draws for stratum in record.strata]:
        raise role.damaged(f"its draws are not those of the strata of {AUDIT_JSON}")
    return Audit(record, draws)


def _content(path: Path, role: FileRole) -> bytes:
    try:
        return read_regular(path, most_bytes=_MAX_BYTES)
    except OSError as error:
        raise role.damaged(error) from None
