"""Files of other formats, read with bounds: the one place that turns a library's exception into an error of ours."""

from fossilray.core.formats.file_role import FileRole
from fossilray.core.formats.json_text import build_record, parse_json, parse_record

__all__ = ["FileRole", "build_record", "parse_json", "parse_record"]
