"""Templates of pages."""

from __future__ import annotations

import re
from pathlib import Path

from fossilray.render.html import TEMPLATES

_NAMED = re.compile(r"""["']([\w]+\.(?:html|css|js)(?:\.j2)?)["']""")


def test_every_template_that_code_names_lies_in_the_one_folder_and_every_template_is_named() -> None:
    package = TEMPLATES.parents[1]
    sources = [*package.rglob("*.py"), *TEMPLATES.glob("*.j2")]
    named = {name for source in sources for name in _NAMED.findall(source.read_text(encoding="utf-8"))}
    existing = {path.name for path in TEMPLATES.iterdir()}
    assert {name for name in named if name.endswith(".j2")} <= existing
    assert existing <= named


def test_no_other_room_reaches_for_a_folder_of_templates() -> None:
    package = TEMPLATES.parents[1]
    reaching = [
        str(path)
        for path in package.rglob("*.py")
        if path.parent != TEMPLATES.parent and '/ "templates"' in Path(path).read_text(encoding="utf-8")
    ]
    assert reaching == []
