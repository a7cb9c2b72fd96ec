"""Rates from a finished run, from a file, or scaled from a core to a GPU."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fossilray.core.config import RunConfig
from fossilray.core.errors import ConfigError, UsageError
from fossilray.core.formats import FileRole
from fossilray.core.formats.yaml_text import parse_yaml
from fossilray.processing.planning.model import Quantity, Rates
from fossilray.processing.planning.workload import (
    PARQUET_BYTES_PER_OBJECT,
    ObjectStatistics,
    detector_megapixels,
    scanned_info,
)
from fossilray.store import RunStore

UNITS = {
    "fixed_s_per_slide": "s/slide",
    "overview_mm2_per_s": "mm2/s per core",
    "read_mp_per_s": "MP/s per core",
    "detector_mp_per_s": "MP/s",
    "merged_objects_per_s": "objects/s per core",
    "cut_objects_per_s": "objects/s per core",
    "measured_objects_per_s": "objects/s per core",
    "encoded_objects_per_s": "objects/s per core",
    "embedded_objects_per_s": "crops/s",
}
"""The rates that a file may contain."""
_NETWORKS = ("detector_mp_per_s", "embedded_objects_per_s")


@dataclass(frozen=True)
class RatesOfRun:
    """Rates and object statistics of the committed slides of a run."""

    rates: Rates
    statistics: ObjectStatistics


def rates_of_run(store: RunStore, *, on_gpu: bool = False) -> RatesOfRun:
    """Compute the mean rates of one worker, and object statistics, from a run's committed slides.

    A run records seconds per stage, not per part: reading counts with the detector, cutting and encoding with
    measuring. on_gpu: whether its workers had a GPU, which the run does not record.

    Raises:
        RunNotFound: the URL holds no run.
        UsageError: no slide with objects is committed in it.
    """
    config = RunConfig.model_validate(store.read_run().config)
    slides = store.summaries_table()
    objects = _sum(slides, "objects")
    if not objects:
        raise UsageError(
            f"{store.url} has no committed slide with objects to take rates from; leave --from-run out, and they "
            "are measured here"
        )
    megapixels = planned_megapixels = content_mm2 = 0.0
    for row in slides.to_pylist():
        info = scanned_info(max(1, row["bounds_width"]), max(1, row["bounds_height"]), mpp=row["mpp"])
        planned_megapixels += detector_megapixels(info, config)
        megapixels += row["detector_megapixels"]
        content_mm2 += row["content_mm2"]
    spent = {
        stage: _sum(slides, f"seconds_{stage}")
        for stage in ("fetch", "detect", "merge", "crops", "embed", "total")
    }
    rest_s = spent["total"] - spent["fetch"] - spent["detect"] - spent["merge"] - spent["crops"]
    where = f"{slides.num_rows} slides, {objects:,.0f} objects"
    embedded = None
    if spent["embed"] > 0:
        embedded = _rate(objects, spent["embed"], "crops/s", f"{where}, as the workers shared the machine")
    rates = Rates(
        fixed_s_per_slide=Quantity(max(rest_s, 0.0) / slides.num_rows, "s/slide", "measured in a run", where),
        overview_mm2_per_s=None,
        read_mp_per_s=None,
        detector_mp_per_s=_rate(megapixels, spent["detect"], "MP/s", f"{where}; reading included"),
        merged_objects_per_s=_rate(objects, spent["merge"], "objects/s", where),
        cut_objects_per_s=None,
        measured_objects_per_s=_rate(
            objects,
            spent["crops"] - spent["embed"],
            "objects/s",
            f"{where}; cutting and encoding included as far as embedding does not hide them",
        ),
        encoded_objects_per_s=None,
        embedded_objects_per_s=embedded,
        on_gpu=on_gpu,
    )
    statistics = ObjectStatistics(
        objects_per_mm2=_rate(objects, max(content_mm2, 1e-9), "objects/mm2", where),
        bytes_per_object=Quantity(
            _sum(slides, "array_bytes") / objects + PARQUET_BYTES_PER_OBJECT,
            "B/object",
            "measured in a run",
            f"{where}; {PARQUET_BYTES_PER_OBJECT} for the row",
        ),
        blank_share=Quantity(
            max(0.0, 1 - megapixels / max(planned_megapixels, 1e-9)),
            "of the scanned area",
            "measured in a run",
            where,
        ),
    )
    return RatesOfRun(rates, statistics)


def override_rates(rates: Rates, file: Path, *, on_gpu: bool) -> Rates:
    """Replace rates by those in a YAML file.

    on_gpu: the estimate is for a machine with GPUs. If the rates are not, or the other way round, the file must
    contain the rates of both networks.

    Raises:
        ConfigError: the file cannot be read, contains an unknown rate, or lacks a network's rate.
    """
    stated = _read(file)
    if on_gpu != rates.on_gpu:
        needed = [name for name in _NETWORKS if name not in stated and getattr(rates, name) is not None]
        if needed:
            raise ConfigError(
                f"{file} lacks {needed[0]}, which was not measured on a {'GPU' if on_gpu else 'CPU'} here; "
                "add it"
            )
    quantities: dict[str, Any] = {
        name: Quantity(value, UNITS[name], "stated", file.name) for name, value in stated.items()
    }
    return replace(rates, **quantities, on_gpu=on_gpu)


def scale_to_gpu(rates: Rates, factor: float) -> Rates:
    """Scale the rates of both networks to a GPU that is assumed to be `factor` times as fast as one core."""

    def faster(rate: Quantity) -> Quantity:
        how = f"{factor:g} times one core's {rate.value:.3g} ({rate.source})"
        return Quantity(rate.value * factor, rate.unit.replace("core", "GPU"), "assumed", how)

    embedded = rates.embedded_objects_per_s
    return replace(
        rates,
        detector_mp_per_s=faster(rates.detector_mp_per_s),
        embedded_objects_per_s=None if embedded is None else faster(embedded),
        on_gpu=True,
    )


def _read(file: Path) -> dict[str, float]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"cannot read the rates {file}: {reason}; check the path") from None
    tree = parse_yaml(text, FileRole(str(file), "measured rates", "write name: number lines", ConfigError))
    known = ", ".join(UNITS)
    if not isinstance(tree, dict) or not tree:
        raise ConfigError(f"{file} contains no rates; write lines such as embedded_objects_per_s: 900")
    for name, value in tree.items():
        if name not in UNITS:
            raise ConfigError(
                f"{file} contains {str(name)[:60]!r}, which is not a rate; known rates: {known}"
            )
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 < value < float("inf"):
            raise ConfigError(
                f"{file}: {name} is {str(value)[:60]!r}; write a number above 0 in {UNITS[name]}"
            )
    assert {field.name for field in fields(Rates)} == {*UNITS, "on_gpu"}
    return {str(name): float(value) for name, value in tree.items()}


def _sum(slides: pa.Table, name: str) -> float:
    return float(pc.sum(slides[name]).as_py() or 0)


def _rate(amount: float, seconds: float, unit: str, how: str) -> Quantity:
    return Quantity(amount / max(seconds, 1e-6), unit, "measured in a run", how)
