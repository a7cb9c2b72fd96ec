"""The root of the commands: `fossilray --help` on one screen, commands in groups by what the user wants."""

from __future__ import annotations

import textwrap
from typing import Any, ClassVar

import typer
import typer.core

from fossilray.cli.output import left_out_reported

_WIDTH = 80
_PURPOSE = "Detect, crop, embed and count microfossils on scanned palynology slides."
_FIRST_STEPS = """\
Try `fossilray demo`, which makes slides and processes them. Then, for your own:
  fossilray process SLIDES --run RUN
"""
_OPTIONS = """\
Options:
  --version   Print the version and the licence.
  -h, --help  Show this help; that of one command: fossilray COMMAND --help
"""


class RootGroup(typer.core.TyperGroup):
    """All commands. Its help names each group of commands and their names in one line."""

    sections: ClassVar[dict[str, list[str]]] = {}
    """Names of commands by the title of their group; `main` fills it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Print the help when there is no command."""
        if not args:
            typer.echo(ctx.get_help())
            ctx.exit(2)
        rest: list[str] = super().parse_args(ctx, args)
        return rest

    def invoke(self, ctx: Any) -> Any:  # Any: a context of click, which some versions of typer bring along
        """Run the command, then name the damaged files that it left out."""
        with left_out_reported():
            return super().invoke(ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of the program; that of a command is `PlainCommand`'s."""
        formatter.write(render_root_help(self.sections))


def render_root_help(sections: dict[str, list[str]]) -> str:
    """Return the help of the program: at most 24 lines of 80 columns."""
    indent = max(map(len, sections)) + 4
    lines = [
        "\n".join(
            textwrap.wrap(
                f"  {title:<{indent - 2}}{', '.join(names)}", _WIDTH, subsequent_indent=" " * indent
            )
        )
        for title, names in sections.items()
    ]
    commands = "\n".join(["Commands:", *lines])
    return "\n".join(
        [
            "Usage: fossilray COMMAND [OPTIONS] [ARGUMENTS]\n",
            f"{_PURPOSE}\n",
            f"{commands}\n",
            _FIRST_STEPS,
            _OPTIONS,
        ]
    )
