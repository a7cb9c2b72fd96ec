"""The help of the program: one screen, every command in one group, one meaning for each option."""

from __future__ import annotations

import functools
import re
import types
from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import pytest
import typer.main
from rich.cells import cell_len
from support.cli_runner import invoke

from fossilray.cli.main import COMMANDS, Subcommands, app

PROGRAM: Any = typer.main.get_command(app)
"""Duck-typed: some versions of typer bring a click of their own."""


class Exemption(NamedTuple):
    """Commands in which an option has a help text, choices or a type of its own."""

    beginning: str
    """Of the help in every command, also in these."""
    commands: tuple[str, ...]
    """How their names begin; "" stands for every command."""
    reason: str


EXEMPTIONS = {
    "--backbone": Exemption(
        "Backbone that embeds the crops",
        ("classify train", "evaluate "),
        "Labelled crops may also be embedded by an untrained network, by measures, or as their run has them.",
    ),
    "--format": Exemption(
        "Output format",
        ("export",),
        "It writes objects for other programs, and not the rows of a table; one word for the format of a file.",
    ),
    "--labels": Exemption(
        "Labelled crops",
        ("suggest", "audit", "export", "chart", "report", "serve", "classify all"),
        "They take a label set alone; of `suggest` and `audit draw`, it names the objects that are left out, of "
        "`serve` where labels go to.",
    ),
    "--limit": Exemption(
        "Maximum number of objects",
        ("similar",),
        "It searches for several images or objects at once, and the number is that for each.",
    ),
    "--out": Exemption("Output f", ("",), "The help names the kind of file or folder that is written."),
    "--run": Exemption(
        "Run directory",
        ("process", "submit"),
        "They write the run directory; elsewhere it is the one that holds the objects.",
    ),
    "--to": Exemption(
        "Create", ("",), "The help names what is created or extended; a label set is on a local disk."
    ),
    "--where": Exemption(
        "SQL condition on the columns of", ("failures",), "It lists failures, which have other columns."
    ),
}


def every_command(group: Any = PROGRAM, names: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command that is not a group, by its words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from every_command(command, (*names, name))
        else:
            yield " ".join((*names, name)), command


def options() -> Iterator[tuple[str, str, Any]]:
    """Every option of every command: the command, the option's first name, the option."""
    for name, command in every_command():
        for parameter in command.params:
            if parameter.param_type_name == "option":
                yield name, parameter.opts[0], parameter


@pytest.mark.parametrize("words", [["--help"], ["-h"], []])
def test_help_of_the_program_fits_a_screen_of_80_columns_and_24_lines(words: list[str]) -> None:
    lines = invoke(*words).output.rstrip("\n").splitlines()
    assert len(lines) <= 24
    assert max(map(cell_len, lines)) <= 80
    assert lines[0].startswith("Usage: fossilray COMMAND")


def test_help_of_the_program_names_every_group_and_command_once() -> None:
    lines = invoke("--help").output.splitlines()
    for title, commands in COMMANDS.items():
        (line,) = [line for line in lines if line.strip().startswith(title)]
        assert line.strip().removeprefix(title).strip() == ", ".join(commands)
    names = [name for commands in COMMANDS.values() for name in commands]
    assert sorted(names) == sorted(PROGRAM.commands)
    assert len(names) == len(set(names))


def test_help_of_every_command_is_a_sentence_in_the_imperative() -> None:
    for name, command in every_command():
        summary = command.help.splitlines()[0]
        assert summary.endswith("."), name
        assert summary[0].isupper(), name
        assert len(summary) <= 120, name
        verb = summary.split()[0]
        assert not verb.endswith(("s", "ing", "ed")) or verb in ("Process", "Embed"), f"{name}: {summary}"


def test_published_names_are_other_names_of_the_same_evaluation() -> None:
    group = COMMANDS["Check predictions"]["evaluate"]
    assert isinstance(group, Subcommands)
    assert group.aliases == {
        "martinsen2024": "classification",
        "scampi": "retrieval",
        "karaderi2021": "metric-learning",
        "liu2022": "transfer",
    }
    commands = PROGRAM.commands["evaluate"].commands
    for alias, name in group.aliases.items():
        assert commands[alias].help == commands[name].help
        assert [option.opts for option in commands[alias].params] == [
            option.opts for option in commands[name].params
        ]
        assert commands[alias].hidden


def value_type(hint: Any) -> Any:
    """The type of one value of an option: without Annotated, None and list."""
    while get_origin(hint) is Annotated or get_origin(hint) in (Union, types.UnionType, list):
        hint = next(part for part in get_args(hint) if part is not type(None))
    return hint


class Meaning(NamedTuple):
    """What must be the same in every command that has an option."""

    spellings: tuple[str, ...]
    """Those that switch a flag off, too."""
    type: Any
    word: str | None
    """What stands for the value in help."""
    help: str


def meanings() -> dict[str, dict[str, Meaning]]:
    """What an option means in each command, by option and command."""
    found: dict[str, dict[str, Meaning]] = defaultdict(dict)
    for name, command in every_command():
        hints = get_type_hints(command.callback, include_extras=True)
        for option in command.params:
            if option.param_type_name == "option":
                spellings = (*option.opts, *option.secondary_opts)
                kind = value_type(hints[option.name])
                found[option.opts[0]][name] = Meaning(spellings, kind, option.metavar, option.help)
    return found


def is_exempt(option: str, command: str) -> bool:
    return option in EXEMPTIONS and command.startswith(EXEMPTIONS[option].commands)


def test_an_option_has_one_type_and_one_help_text_in_every_command() -> None:
    wrong = {
        option: {one: [name for name in commands if commands[name] == one] for one in differing}
        for option, commands in meanings().items()
        if len(differing := {one for name, one in commands.items() if not is_exempt(option, name)}) > 1
    }
    assert not wrong


def test_an_option_that_may_be_repeated_may_be_repeated_in_every_command() -> None:
    repeatable: dict[str, set[bool]] = defaultdict(set)
    for _, name, option in options():
        repeatable[name].add(bool(option.multiple))
    assert not [name for name, either in repeatable.items() if len(either) > 1]


def test_every_exemption_is_needed_and_leaves_the_meaning_as_it_is() -> None:
    found = meanings()
    assert set(EXEMPTIONS) <= set(found)
    for option, exemption in EXEMPTIONS.items():
        commands = found[option]
        assert len(set(commands.values())) > 1, f"{option} differs nowhere"
        common = {one for name, one in commands.items() if not is_exempt(option, name)}
        for name, one in commands.items():
            assert one.help.startswith(exemption.beginning), f"{name} {option}: {one.help}"
            assert not (is_exempt(option, name) and one in common), f"{name} {option} needs no exemption"
        for beginning in exemption.commands:
            assert any(name.startswith(beginning) for name in commands), f"{option} of {beginning}"
        assert exemption.reason.endswith(".")


def test_a_wrong_choice_is_refused_with_the_choices_and_without_words_of_a_library() -> None:
    result = invoke("query", "run", "SELECT 1", "--format", "html")
    assert result.exit_code == 2
    assert "Invalid value for '--format': 'html' is not one of 'table', 'csv'" in result.output


def test_no_two_options_have_the_same_help_text() -> None:
    options_of: dict[str, set[str]] = defaultdict(set)
    for option, commands in meanings().items():
        for one in commands.values():
            options_of[one.help].add(option)
    assert not {text: names for text, names in options_of.items() if len(names) > 1}


def test_no_option_has_a_short_name_but_help() -> None:
    short = [f"{command} {opt}" for command, _, option in options() for opt in option.opts if len(opt) == 2]
    assert not short


def test_help_of_every_option_is_a_sentence_or_a_noun_phrase_of_one() -> None:
    for command, name, option in options():
        assert (option.help or "").endswith((".", "…")), f"{command} {name}: {option.help}"


@functools.cache
def help_at_80_columns(command: str) -> str:
    result = invoke(*command.split(), "--help", columns=80)
    assert result.exit_code == 0, result.output
    return result.output


def test_help_of_every_command_at_80_columns_shows_every_option_and_all_words_of_its_help() -> None:
    for name, command in every_command():
        text = help_at_80_columns(name)
        assert max(map(cell_len, text.splitlines())) <= 80, name
        without_spaces = "".join(text.split())
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert re.search(rf"^  {re.escape(parameter.opts[0])}\b", text, re.MULTILINE), text
            assert "".join(parameter.help.split()) in without_spaces, f"{name} {parameter.name}"
        assert not re.search(r"[a-z](…|\.\.\.)", text), name


def test_help_of_a_command_of_two_words_shows_the_summaries_of_its_second_words_whole() -> None:
    for first, group in PROGRAM.commands.items():
        for second, command in getattr(group, "commands", {}).items():
            if not command.hidden:
                summary = command.help.partition("\n")[0]
                text = "".join(help_at_80_columns(first).split())
                assert second + "".join(summary.split()) in text


def test_a_value_is_named_by_a_word_in_capitals_or_by_its_choices_and_never_by_a_python_type() -> None:
    word = re.compile(r"[A-Z]+([ =:][A-Z]+)*(\.\.\.)?|[a-z0-9-]+(\|[a-z0-9-]+)+")
    for name, command in every_command():
        for parameter in command.params:
            if not getattr(parameter, "is_flag", False):
                assert word.fullmatch(parameter.metavar), f"{name} {parameter.name}: {parameter.metavar}"
        assert not re.search(r"list\[|<(str|int|float|path|bool)\b|\brange\b>", help_at_80_columns(name)), (
            name
        )


def test_help_of_arguments_names_them_as_the_usage_line_does() -> None:
    text = help_at_80_columns("query")
    assert text.startswith("Usage: fossilray query [OPTIONS] RUN SQL\n")
    assert "Arguments:\n  RUN  Run directory" in text
    assert help_at_80_columns("demo").startswith("Usage: fossilray demo [OPTIONS] [DIR]\n")
