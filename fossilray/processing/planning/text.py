"""An estimate for the terminal, long or short, and as JSON for programs."""

from __future__ import annotations

import json
from dataclasses import asdict, fields

from rich.console import Group
from rich.markup import escape

from fossilray.core.text import format_bytes, strip_control_characters
from fossilray.core.text_table import Column, TextTable
from fossilray.processing.planning.model import ArchiveEstimate, Quantity, Rates, Workload

_NAMES = {
    "slides": "slides",
    "gigapixels": "scanned pixels of level 0",
    "scanned_mm2": "scanned area",
    "detector_megapixels": "pixels that the detector sees",
    "objects": "objects",
    "bytes_read": "bytes of slides",
    "bytes_per_object": "stored for each object",
    "fixed_s_per_slide": "open, picture, commit",
    "overview_mm2_per_s": "overview that tells blank tiles",
    "read_mp_per_s": "reading tiles",
    "detector_mp_per_s": "detector",
    "merged_objects_per_s": "merging boxes",
    "cut_objects_per_s": "cutting crops",
    "measured_objects_per_s": "measuring crops",
    "encoded_objects_per_s": "encoding crops",
    "embedded_objects_per_s": "embedder",
}


def render_estimate(estimate: ArchiveEstimate, *, within_days: float | None = None) -> Group:
    """Every term with where it comes from, the seconds of the mean slide, then what it comes to."""
    return Group(
        _terms("what there is to do", estimate.workload),
        _terms("how fast it goes", estimate.rates),
        _mean_slide(estimate),
        _limits(estimate),
        *_result(estimate, within_days),
    )


def render_short(estimate: ArchiveEstimate) -> Group:
    """What it comes to, in some lines."""
    return Group(*_result(estimate, None))


def estimate_to_json(estimate: ArchiveEstimate, *, within_days: float | None = None) -> str:
    """The same as one JSON object: workload, rates, machine, stages, limits and results."""
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


def _terms(title: str, told: Workload | Rates) -> TextTable:
    table = TextTable("term", Column("value", is_number=True), "unit", "from", "how", title=title)
    for field in fields(told):
        quantity = getattr(told, field.name)
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
        Column("s", is_number=True),
        "decided by",
        "of these at once (s of one core or GPU)",
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
    reading = _count(machine.read_threads, "reading thread")
    offered = {
        "workers in turn": f"{_count(machine.workers, 'worker')}, {reading} each",
        "cores": _count(machine.cores, "core"),
        "GPU": _count(machine.gpus, "GPU"),
        "network": f"{machine.network_gbit_s or 0:g} Gbit/s",
    }
    table = TextTable(
        "limit",
        "offered",
        Column("s a slide", is_number=True),
        title=f"what one machine allows: {machine.name}",
    )
    for name, seconds in estimate.limits.items():
        table.add_row(name, offered[name], _number(seconds))
    return table


def _result(estimate: ArchiveEstimate, within_days: float | None) -> list[str]:
    machine = estimate.machine
    name = escape(strip_control_characters(machine.name))
    lines = [
        "",
        f"{estimate.slides_per_hour:,.1f} slides/h on {estimate.machines} x {name}; what limits it: "
        f"{estimate.bottleneck}",
        f"{_duration(estimate.hours)} for {estimate.workload.slides.value:,.0f} slides, at the bound: queues that "
        "run empty cost somewhat more",
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
        lines.append("no price is known; give --price for the money")
    stored, each = format_bytes(estimate.stored_bytes), estimate.workload.bytes_per_object
    lines.append(
        f"{stored} in the run directory: {estimate.workload.objects.value:,.0f} objects of {each.value:,.0f} B "
        f"({each.source})"
    )
    if within_days is not None:
        lines.append(f"{estimate.machines_for(within_days)} x {name} finish within {within_days:g} days")
    return lines


def _duration(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:,.1f} seconds"
    if hours < 1:
        return f"{hours * 60:,.1f} minutes"
    return f"{hours:,.1f} hours" if hours < 48 else f"{hours / 24:,.1f} days"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
