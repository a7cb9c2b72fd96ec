"""Report of a run as one self-contained HTML page."""

from fossilray.analysis.report.page import write_report

__all__ = ["write_report"]
