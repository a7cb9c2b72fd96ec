"""What a rich console prints."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType


def text_of(renderable: RenderableType, *, width: int = 200) -> str:
    """The lines on a console without colours."""
    out = io.StringIO()
    Console(file=out, width=width).print(renderable)
    return out.getvalue()
