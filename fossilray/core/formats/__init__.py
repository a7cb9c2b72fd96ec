"""Readers of common formats with bounds on size and depth; exceptions of libraries become errors of fossilray."""

from fossilray.core.formats.file_role import FileRole
from fossilray.core.formats.json_text import build_record, parse_json, parse_record

__all__ = ["FileRole", "build_record", "parse_json", "parse_record"]
