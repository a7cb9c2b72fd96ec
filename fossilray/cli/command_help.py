"""The help of one command: plain text that fits 80 columns without cutting a word, and a word for each value."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import typer
import typer.core

_WORDS = {
    "--config": "PATH",
    "--dashboard": "URL",
    "--embeddings": "NAME",
    "--entrypoint-resources": "JSON",
    "--from-run": "RUN",
    "--genus": "GENUS",
    "--name": "NAME",
    "--older-than": "AGE",
    "--out": "PATH",
    "--predictions": "NAME",
    "--python": "PATH",
    "--rule": "FIELD=VALUE",
    "--run": "RUN",
    "--set": "FIELD=VALUE",
    "--slide": "SLIDE",
    "--to": "PATH",
    "--train-set": "FIELD=VALUE",
    "--well": "NAME",
    "--where": "SQL",
    "--working-dir": "PATH",
}
_WORDS_OF_TYPES: dict[Any, str] = {int: "N", float: "X", Path: "PATH"}


class PlainCommand(typer.core.TyperCommand):
    """A command whose help names values by a word or by their choices, never by a Python type."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        hints = get_type_hints(self.callback, include_extras=True) if self.callback else {}
        for parameter in self.params:
            if _is_argument(parameter):
                parameter.metavar = (parameter.metavar or str(parameter.name).upper()).strip("[]")
            elif parameter.metavar is None and not getattr(parameter, "is_flag", False):
                kind = hints[str(parameter.name)]
                parameter.metavar = "|".join(choices(kind)) or value_word(parameter.opts[0], kind)

    # Any: contexts and formatters of click, which some versions of typer bring along.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments of the command; messages are without the prefix of the library that checks values."""
        try:
            rest: list[str] = super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise
        return rest

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line after the command; optional arguments are in brackets."""
        arguments = [parameter for parameter in self.params if _is_argument(parameter)]
        words = [str(argument.metavar) for argument in arguments]
        return [
            "[OPTIONS]",
            *(
                word if argument.required else f"[{word}]"
                for word, argument in zip(words, arguments, strict=True)
            ),
        ]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and the options, each with its help."""
        arguments: list[tuple[str, str]] = []
        options: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            if _is_argument(parameter):
                arguments.append((str(parameter.metavar), record[1]))
            else:
                options.append(record)
        for title, rows in (("Arguments", arguments), ("Options", options)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class PlainGroup(typer.core.TyperGroup):
    """A command of two words whose help shows the whole first sentence of each second word."""

    default: ClassVar[str | None] = None
    """The second word that is meant where the first argument is none; None: one must be given."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command of the second word."""
        is_named = self.default is None or args[0] in self.commands or args[0].startswith("-")
        return super().resolve_command(ctx, args if is_named else [str(self.default), *args])

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the second words, each with its summary."""
        rows = [(name, command) for name, command in self.commands.items() if not command.hidden]
        with formatter.section("Commands"):
            formatter.write_dl([(name, (command.help or "").partition("\n")[0]) for name, command in rows])


def group_with_default(second: str | None) -> type[PlainGroup]:
    """Return the class of a group that takes one of its second words as given where the first argument is none."""

    class GroupWithDefault(PlainGroup):
        default = second

    return GroupWithDefault


def choices(kind: Any) -> tuple[str, ...]:
    """Return the values that a parameter of this type accepts, if its type names them."""
    kind = _value_type(kind)
    return get_args(kind) if get_origin(kind) is Literal else ()


def value_word(option: str, kind: Any) -> str:
    """Return the upper-case word that stands for the value of an option in help."""
    return _WORDS.get(option) or _WORDS_OF_TYPES.get(_value_type(kind), "TEXT")


def _value_type(kind: Any) -> Any:
    """Return the type of one value: without Annotated, None and list."""
    while get_origin(kind) is not Literal and (
        inner := [part for part in get_args(kind) if part is not type(None)]
    ):
        kind = inner[0]
    return kind


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")
