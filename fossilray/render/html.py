"""HTML pages without network access: templates, and images as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fossilray.core.text import strip_control_characters
from fossilray.core.types import Image

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
"""Folder of all templates, styles and scripts."""


def template_environment(
    folder: Path = TEMPLATES, *, finalize: Callable[[Any], Any] | None = None
) -> Environment:
    """Return the Jinja environment of a folder of templates. Values are escaped, and undefined names are errors.

    Filters: grouped (1,234), percent (a fraction as 12.3 %), plain (without control characters).
    finalize: applied to every value before it is written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["grouped"] = lambda number: f"{number:,}"
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    environment.filters["plain"] = strip_control_characters
    return environment


def svg_uri(content: bytes) -> str:
    """Return the data URI of an SVG file."""
    return "data:image/svg+xml;base64," + base64.b64encode(content).decode()


def encode_picture(image: Image, suffix: str) -> bytes:
    """Encode an image (H, W, 3) as a PNG or JPEG file, by the suffix: .png, .jpg or .jpeg."""
    from PIL import Image as Pillow

    buffer = io.BytesIO()
    Pillow.fromarray(image).save(buffer, "PNG" if suffix.lower() == ".png" else "JPEG")
    return buffer.getvalue()
