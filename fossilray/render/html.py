"""Pages that open without a network: templates that miss nothing, pictures inside."""

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
"""Where the templates lie that share the report's looks."""


def template_environment(
    folder: Path = TEMPLATES, *, finalize: Callable[[Any], Any] | None = None
) -> Environment:
    """The templates of a folder: what comes from outside is escaped, and a name that nothing was given for is an error.

    Their filters: grouped (1,234), percent (a share as 12.3 %), plain (without signs that steer a terminal or reorder
    text). finalize: what is done to every value before it is written.
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
    """An SVG file as an address that holds it."""
    return "data:image/svg+xml;base64," + base64.b64encode(content).decode()


def encode_picture(image: Image, suffix: str) -> bytes:
    """An image (H, W, 3) as a file of this ending: .png, .jpg or .jpeg."""
    from PIL import Image as Pillow

    buffer = io.BytesIO()
    Pillow.fromarray(image).save(buffer, "PNG" if suffix.lower() == ".png" else "JPEG")
    return buffer.getvalue()
