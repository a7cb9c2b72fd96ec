"""The status of a run, shown repeatedly until the run is done, from any machine that reaches its store."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from rich.console import Console
from rich.live import Live

from fossilray.core.config import RunConfig
from fossilray.core.errors import StoreUnreachable
from fossilray.core.text import strip_control_characters
from fossilray.store import RunStore
from fossilray.store.status import StatusReport, read_status, render_status, status_as_json, to_line


def watch_run(
    store: RunStore,
    console: Console,
    *,
    every_s: float,
    as_json: bool = False,
    alarm_minutes: float | None = None,
    config: RunConfig | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> str | None:
    """Show the status of a run every `every_s` seconds until it is done; return the alarm that ended it, else None.

    On a terminal the status is updated in place; elsewhere, and with `as_json`, it is one line each time. While the
    store does not reply, a message is shown and the status is requested again.

    Raises:
        RunNotFound: the URL holds no run.
    """
    if as_json or not console.is_terminal:
        return _watch_lines(store, console, every_s, as_json, alarm_minutes, config, sleep)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            report = _request(store, config, live.console)
            if report is not None:
                live.update(render_status(report), refresh=True)
                alarm = check_alarm(report, minutes=alarm_minutes)
                if alarm is not None or report.is_done:
                    return alarm
            sleep(every_s)


def check_alarm(report: StatusReport, *, minutes: float | None) -> str | None:
    """Return a message if slides are left and none was committed for this many minutes, else None."""
    if minutes is None or report.is_done:
        return None
    since = report.last_sign_at
    if report.read_at - since < timedelta(minutes=minutes):
        return None
    counts = report.counts
    driver = f"{counts.in_progress:,} in progress" if report.drivers else "no driver is running"
    return (
        f"{report.url}: no slide was committed since {since:%Y-%m-%d %H:%M} UTC, {_minutes(report.read_at, since)} "
        f"ago; {counts.left:,} of {counts.total:,} are left, {driver}"
    )


def _watch_lines(
    store: RunStore,
    console: Console,
    every_s: float,
    as_json: bool,
    alarm_minutes: float | None,
    config: RunConfig | None,
    sleep: Callable[[float], None],
) -> str | None:
    while True:
        report = _request(store, config, None if as_json else console)
        if report is not None:
            line = status_as_json(report, indent=None) if as_json else to_line(report)
            console.file.write(line + "\n")
            console.file.flush()
            alarm = check_alarm(report, minutes=alarm_minutes)
            if alarm is not None or report.is_done:
                return alarm
        sleep(every_s)


def _request(store: RunStore, config: RunConfig | None, console: Console | None) -> StatusReport | None:
    try:
        return read_status(store, config=config)
    except StoreUnreachable as error:
        if console is not None:
            console.print(strip_control_characters(f"{error}; trying again"), markup=False, highlight=False)
        return None


def _minutes(now: datetime, since: datetime) -> str:
    minutes = (now - since).total_seconds() / 60
    return f"{minutes:,.0f} minutes" if minutes < 180 else f"{minutes / 60:,.0f} hours"
