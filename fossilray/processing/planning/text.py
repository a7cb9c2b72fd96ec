"""An estimate for the terminal, in full or in short, and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, fields

from rich.console import Group
from rich.markup import escape

from fossilray.core.text import counted, format_bytes, format_duration, strip_control_characters
from fossilray.core.text_table import TextColumn, TextTable
from fossilray.processing.planning.model import ArchiveEstimate, Quantity, Rates, Workload

_NAMES = {
    "slides": "slides",
    "gigapixels": "scanned pixels of level 0",
    "scanned_mm2": "scanned area",
    "detector_megapixels": "pixels shown to the detector",
    "objects": "objects",
    "bytes_read": "bytes of slides",
    "bytes_per_object": "stored per object",
    "fixed_s_per_slide": "open, picture, commit",
    "overview_mm2_per_s": "overview, to find foreground",
    "read_mp_per_s": "reading tiles",
    "detector_mp_per_s": "detector",
    "merged_objects_per_s": "merging boxes",
    "cut_objects_per_s": "cutting crops",
    "measured_objects_per_s": "measuring crops",
    "encoded_objects_per_s": "encoding crops",
    "embedded_objects_per_s": "embedder",
}


def render_estimate(estimate: ArchiveEstimate, *, within_days: float | None = None) -> Group:
    """Render every term with its source, the seconds of the mean slide, and the result."""
    return Group(
        _terms("workload", estimate.workload),
        _terms("rates", estimate.rates),
        _mean_slide(estimate),
        _limits(estimate),
        *_result(estimate, within_days),
    )


def render_short(estimate: ArchiveEstimate) -> Group:
    """Render the result in a few lines."""
    return Group(*_result(estimate, None))


def estimate_to_json(estimate: ArchiveEstimate, *, within_days: float | None = None) -> str:
    """Return workload, rates, machine, stages, limits and results as one JSON object."""
    results = {
        "seconds_per_slide": estimate.seconds_per_slide,
        "bottleneck": estimate.bottleneck,
        "slides_per_hour": estimate.slides_per_hour,
        "hours": estimate.hours,
        "days": estimate.days,
        "machine_hours": estimate.machine_hours,
        "gpu_hours": estimate.gpu_hours,
        "gpu_busy_share": estimate.gpu_busy_share,
        "money": estimate.money,
        "stored_bytes": estimate.stored_bytes,
        "machines_within_days": None if within_days is None else estimate.machines_for(within_days),
    }
    return json.dumps({**asdict(estimate), "results": results}, indent=1, ensure_ascii=False)


def _terms(title: str, terms: Workload | Rates) -> TextTable:
    table = TextTable("term", TextColumn("value", is_number=True), "unit", "from", "how", title=title)
    for field in fields(terms):
        quantity = getattr(terms, field.name)
        if isinstance(quantity, Quantity):
            table.add_row(
                _NAMES[field.name],
                *_shown(quantity),
                quantity.source,
                quantity.how,
            )
    return table


def _shown(quantity: Quantity) -> tuple[str, str]:
    if quantity.unit == "B":
        value, unit = format_bytes(quantity.value).split(" ")
        return value, unit
    return _number(quantity.value), quantity.unit


def _mean_slide(estimate: ArchiveEstimate) -> TextTable:
    table = TextTable(
        "stage of a worker",
        TextColumn("s", is_number=True),
        "decided by",
        "parallel parts (s of one core or GPU)",
        title="the mean slide",
    )
    for stage in estimate.stages:
        parts = ", ".join(
            f"{part.name} {_number(part.seconds)}{' (GPU)' if part.on_gpu else ''}" for part in stage.parts
        )
        table.add_row(stage.name, _number(stage.seconds), stage.decided_by, parts)
    return table


def _limits(estimate: ArchiveEstimate) -> TextTable:
    machine = estimate.machine
    reading = counted(machine.read_threads, "reading thread")
    offered = {
        "workers in turn": f"{counted(machine.workers, 'worker')}, {reading} each",
        "cores": counted(machine.cores, "core"),
        "GPU": counted(machine.gpus, "GPU"),
        "network": f"{machine.network_gbit_s or 0:g} Gbit/s",
    }
    table = TextTable(
        "limit",
        "offered",
        TextColumn("s per slide", is_number=True),
        title=f"limits of one machine: {machine.name}",
    )
    for name, seconds in estimate.limits.items():
        table.add_row(name, offered[name], _number(seconds))
    return table


def _result(estimate: ArchiveEstimate, within_days: float | None) -> list[str]:
    machine = estimate.machine
    name = escape(strip_control_characters(machine.name))
    lines = [
        "",
        f"{estimate.slides_per_hour:,.1f} slides/h on {estimate.machines} x {name}; limited by: "
        f"{estimate.bottleneck}",
        f"{format_duration(estimate.hours * 3600)} for {estimate.workload.slides.value:,.0f} slides, at the bound: "
        "queues that run empty cost somewhat more",
    ]
    if machine.gpus:
        lines.append(
            f"{estimate.gpu_hours:,.1f} GPU-hours, the GPU busy {estimate.gpu_busy_share:.0%} of them"
        )
    else:
        lines.append(f"{estimate.machine_hours * machine.cores:,.1f} core-hours, no GPU")
    if estimate.money is not None and machine.price_per_hour is not None:
        price = machine.price_per_hour
        currency = "USD " if price.unit.startswith("USD") else ""
        lines.append(
            f"{currency}{estimate.money:,.2f} at {price.value:g} an hour ({price.source}: {escape(price.how)})"
        )
    else:
        lines.append("the price is unknown; give --price for the cost")
    stored, each = format_bytes(estimate.stored_bytes), estimate.workload.bytes_per_object
    lines.append(
        f"{stored} in the run directory: {estimate.workload.objects.value:,.0f} objects of {each.value:,.0f} B "
        f"({each.source})"
    )
    if within_days is not None:
        lines.append(f"{estimate.machines_for(within_days)} x {name} finish within {within_days:g} days")
    return lines


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
