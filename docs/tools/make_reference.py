"""Write the pages of commands, configuration and API in docs/reference/ from the program; a test fails when they lag.

python docs/tools/make_reference.py
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from typer.models import ArgumentInfo, ParameterInfo

from fossilray.cli.command_help import choices, value_word
from fossilray.cli.main import COMMANDS, Subcommands
from fossilray.core.config import CurationConfig, RunConfig, Section, TrainConfig, document_config
from fossilray.core.config.training_recipes import RECIPES

DOCS = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent))

_COMMANDS_INTRODUCTION = "`fossilray COMMAND --help` prints the same text."
_CONFIGURATION_INTRODUCTION = (
    "`fossilray config > run.yaml` writes every field of a run with its default; `--config run.yaml` reads the file, "
    "and `--set section.field=value` sets one field. [Trainings](training.md) have "
    "fields of their own, which `--train-config` and `--train-set` take, and so has [curation](curation.md), with "
    "`--rules` and `--rule`."
)

Row = tuple[str, str, str]


def main() -> None:
    """Write every page, and remove pages of commands and sections that are gone."""
    pages = reference_pages()
    for folder in ("commands", "configuration"):
        for old in (DOCS / "reference" / folder).glob("*.md"):
            if str(old.relative_to(DOCS)) not in pages:
                old.unlink()
    for name, text in pages.items():
        path = DOCS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def reference_pages() -> dict[str, str]:
    """Every reference page by its path below docs/."""
    commands = {_path_of(name): _command_page(name, function) for name, function in commands_by_name()}
    from api_page import api_page

    sections = {f"reference/configuration/{name}.md": text for name, text in _section_pages()}
    return {
        **commands,
        "reference/commands/index.md": _commands_index(),
        **sections,
        "reference/configuration/index.md": _index_page(
            "Configuration", _CONFIGURATION_INTRODUCTION, sections
        ),
        "reference/configuration/training.md": _whole_page("Training of a backbone", TrainConfig, _recipes()),
        "reference/configuration/curation.md": _whole_page("Curation", CurationConfig, []),
        "reference/api.md": api_page(),
    }


def commands_by_name() -> list[tuple[str, Callable[..., object]]]:
    """The program's commands and the functions behind them; a command of two words is named by both."""
    return [pair for title in COMMANDS for pair in _commands_of(title)]


def _commands_of(title: str) -> list[tuple[str, Callable[..., object]]]:
    """The commands of one group of `fossilray --help`."""
    pairs: list[tuple[str, Callable[..., object]]] = []
    for name, command in COMMANDS[title].items():
        if isinstance(command, Subcommands):
            pairs += [(f"{name} {second}", function) for second, function in command.commands.items()]
        else:
            pairs.append((name, command))
    return pairs


def _aliases_of(name: str) -> list[str]:
    """The other names of a command of two words."""
    first, _, second = name.partition(" ")
    return [
        f"{first} {alias}"
        for commands in COMMANDS.values()
        if isinstance(command := commands.get(first), Subcommands)
        for alias, named in command.aliases.items()
        if named == second
    ]


def _path_of(name: str) -> str:
    return f"reference/commands/{name.replace(' ', '-')}.md"


def _commands_index() -> str:
    """A page that links to the page of every command, in the groups of `fossilray --help`."""
    lines = ["# Commands", "", _COMMANDS_INTRODUCTION]
    for title in COMMANDS:
        lines += ["", f"## {title}", "", "| | |", "| --- | --- |"]
        for name, function in _commands_of(title):
            summary = inspect.cleandoc(function.__doc__ or "").partition("\n")[0]
            lines.append(f"| [fossilray {name}]({Path(_path_of(name)).name}) | {_cell(summary)} |")
    return "\n".join(lines) + "\n"


def _index_page(title: str, introduction: str, pages: Mapping[str, str]) -> str:
    """A page that links to pages of its folder, each with the first sentence of its text."""
    lines = [f"# {title}", "", introduction, "", "| | |", "| --- | --- |"]
    for path, text in pages.items():
        heading, _, body = text.partition("\n\n")
        sentence = re.split(r"(?<=[.:?!])\s", body.strip().partition("\n\n")[0], maxsplit=1)[0]
        lines.append(f"| [{heading.removeprefix('# ')}]({Path(path).name}) | {_cell(sentence)} |")
    return "\n".join(lines) + "\n"


def _command_page(name: str, function: Callable[..., object]) -> str:
    arguments, options = _parameters(function)
    usage = " ".join(
        [f"fossilray {name}", *("[OPTIONS]" for _ in options[:1]), *(row[0] for row in arguments)]
    )
    lines = [f"# fossilray {name}", "", inspect.cleandoc(function.__doc__ or ""), "", "```", usage, "```"]
    if aliases := _aliases_of(name):
        lines += ["", "Also called " + ", ".join(f"`fossilray {alias}`" for alias in aliases) + "."]
    rows = arguments + options
    if rows:
        lines += ["", "| | default | |", "| --- | --- | --- |"]
        lines += [f"| `{_cell(spelled)}` | {default} | {_cell(what)} |" for spelled, default, what in rows]
    return "\n".join(lines) + "\n"


def _parameters(function: Callable[..., object]) -> tuple[list[Row], list[Row]]:
    arguments: list[Row] = []
    options: list[Row] = []
    hints = get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        kind, info = get_args(hints[parameter.name])[:2]
        if isinstance(info, ArgumentInfo):
            name = (info.metavar or parameter.name.upper()).strip("[]")
            spelled = name if parameter.default is parameter.empty else f"[{name}]"
            arguments.append((spelled, _default(parameter, info), info.help or ""))
        else:
            # Inside Annotated, typer keeps the first spelling where a default would stand.
            spellings = [one for one in (info.default, *(info.param_decls or ())) if str(one).startswith("-")]
            spelled = "/".join(spellings or ["--" + parameter.name.replace("_", "-")])
            word = "CHOICE" if choices(kind) else info.metavar or value_word(spelled, kind)
            takes = "" if kind is bool else f" {word}"
            options.append((spelled + takes, _default(parameter, info), (info.help or "") + _choices(kind)))
    return arguments, options


def _choices(kind: Any) -> str:
    """The values that an option accepts, if they are named."""
    values = ", ".join(f"`{value}`" for value in choices(kind))
    return f" One of {values}." if values else ""


def _default(parameter: inspect.Parameter, info: ParameterInfo) -> str:
    if isinstance(info.show_default, str):
        return info.show_default
    if parameter.default is parameter.empty:
        return "required"
    return "" if parameter.default is None or parameter.default is False else f"`{parameter.default}`"


def _section_pages() -> list[tuple[str, str]]:
    fields = list(document_config())
    pages = []
    for section in RunConfig.model_fields:
        about = next(text for name, _, text in fields if name == section)
        lines = [f"# `{section}`", "", about, ""]
        for name, value, text in fields:
            if name.startswith(section + "."):
                lines += _field_lines(name, value, text)
        pages.append((section, "\n".join(lines).rstrip() + "\n"))
    return pages


def _whole_page(title: str, kind: type[Section], more: list[str]) -> str:
    # The docstring is that of the API's page, too: its example belongs there, and so does the way to this page.
    about = inspect.cleandoc(kind.__doc__ or "").partition("\n\nExample:")[0]
    about = re.sub(r"\n?docs/reference/\S+ lists every field\.", "", about)
    lines = [f"# {title}", "", about, "", *more]
    for field in document_config(kind):
        lines += _field_lines(*field)
    return "\n".join(lines).rstrip() + "\n"


def _field_lines(name: str, value: Any, text: str) -> list[str]:
    default = [] if isinstance(value, Section) else [f"Default: `{_plain(value)}`", ""]
    return [f"## `{name}`", "", text, "", *default]


def _recipes() -> list[str]:
    """A table of what each method sets instead of the defaults."""
    brought = {method: dict(_leaves(recipe)) for method, recipe in RECIPES.items()}
    set_by_some = [
        name for name, _, _ in document_config(TrainConfig) if any(name in one for one in brought.values())
    ]
    return [
        "What the methods bring instead of the defaults below:",
        "",
        "| | " + " | ".join(f"`{method}`" for method in brought) + " |",
        "| --- " * (len(brought) + 1) + "|",
        *(
            f"| `{name}` | "
            + " | ".join(_plain(one[name]) if name in one else "" for one in brought.values())
            + " |"
            for name in set_by_some
        ),
        "",
    ]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _plain(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, tuple):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    if isinstance(value, Section):
        return "{" + ", ".join(f"{name}: {item}" for name, item in value.model_dump().items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    main()
