"""Every command line that a message, a help text or a page recommends exists, and works where it only needs a run."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from support.cli_runner import invoke
from support.small_run import write_small_run

from fossilray import __version__
from fossilray.cli.main import app

ROOT = Path(__file__).parents[2]
PROGRAM: Any = typer.main.get_command(app)
"""Duck-typed: some versions of typer bring a click of their own."""
PAGES = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "commands"),
    *sorted((ROOT / "deploy").rglob("*.md")),
]
SOURCES = sorted((ROOT / "fossilray").rglob("*.py"))
TEMPLATES = sorted((ROOT / "fossilray").rglob("*.j2"))
OTHERS = {"--help", "--version", "--dynamic", "--imgsz", "--include", "--sweep", "--vscale"}
OTHERS |= {"--tile", "--pyramid", "--bigtiff", "--compression"}  # vips
OTHER_PROGRAMS = r"\b(pip|ray|docker|kubectl|python|vips|gdcmconv) "
"""Options of programs that messages name beside fossilray."""


@dataclass(frozen=True)
class Mention:
    """A command line, and where it stands."""

    place: str
    words: tuple[str, ...]
    """Without `fossilray`."""

    def __str__(self) -> str:
        return f"{self.place}: fossilray {' '.join(self.words)}"


def strings(path: Path) -> Iterator[str]:
    """Every string of a module, docstrings too; what is filled in later is VALUE."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "VALUE" for part in node.values)  # type: ignore[misc]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def spans(text: str) -> Iterator[str]:
    """What stands in backticks, or after `fossilray` at the start of a line of a shell block or message."""
    joined = re.sub(r"\{\{.*?\}\}", "VALUE", text.replace("\\\n", " "))
    for span in re.findall(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)", joined):
        yield " ".join(span.split())
    for block in re.findall(r"```(?:bash|sh|console|text)?\n(.*?)```", joined, re.DOTALL):
        yield from (line.strip() for line in block.splitlines())
    for line in joined.splitlines():
        if re.match(rf"fossilray ({'|'.join(PROGRAM.commands)})\b", line):
            yield line
    yield from re.findall(r"<code>([^<]+)</code>", joined)


def words_of(span: str) -> list[str]:
    """The words of the first command of a line, quotes undone."""
    lexer = shlex.shlex(span, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    words: list[str] = []
    try:
        for word in lexer:
            if set(word) <= set("|&;<>()"):
                break
            words.append(word)
    except ValueError:  # an apostrophe of prose
        return span.split()
    if words and re.fullmatch(r"(\S*/)?fossilray", words[0]):
        words[0] = "fossilray"
    return words


def mentions() -> Iterator[Mention]:
    for path in (*PAGES, *SOURCES, *TEMPLATES):
        texts = list(strings(path)) if path.suffix == ".py" else [path.read_text(encoding="utf-8")]
        for text in texts:
            for span in spans(text):
                words = words_of(span)
                if words[:1] == ["fossilray"] and words[1:] and words[1].strip(",") != "VALUE":
                    yield Mention(str(path.relative_to(ROOT)), tuple(words[1:]))
                elif len(words) > 1 and words[0] in PROGRAM.commands and "/" not in span[:1]:
                    # `labels import --to` and the like: only with a subcommand or an option.
                    group = PROGRAM.commands[words[0]]
                    if hasattr(group, "commands") or words[1].startswith("--"):
                        yield Mention(str(path.relative_to(ROOT)), tuple(words))


MENTIONS = sorted(set(mentions()), key=str)


def fault(mention: Mention) -> str | None:
    """What is wrong with a command line; None: it parses."""
    words = list(mention.words)
    if words[0].startswith("-"):
        return None if words[0] in ("--version", "-h", "--help") else f"no option {words[0]}"
    command = PROGRAM
    names = ["fossilray"]
    while hasattr(command, "commands"):
        if not words:
            return None  # the group itself: "`fossilray classify`"
        name = words.pop(0)
        if name not in command.commands and getattr(command, "default", None):
            words.insert(0, name)
            name = command.default
        if name not in command.commands:
            return f"no command {' '.join([*names, name])}"
        command = command.commands[name]
        names.append(name)
    given = [word for word in words if word not in ("…", "...")]
    known = {
        spelling
        for option in command.params
        for spelling in (*option.opts, *option.secondary_opts)
        if spelling.startswith("-")
    } | {"-h", "--help"}
    for word in given:
        if re.fullmatch(r"--[a-z][\w-]*(=.*)?", word) and word.split("=")[0] not in known:
            return f"{' '.join(names)} has no {word}"
    if not given or len(given) < len(words):
        return None  # the name of the command alone, or an abbreviated line
    return _missing(command, given)


def _missing(command: Any, given: list[str]) -> str | None:
    context = command.context_class(command, info_name=command.name)
    try:
        values, rest, _ = command.make_parser(context).parse_args(list(given))
    except Exception as error:  # the parser's own class
        if not hasattr(error, "format_message"):
            raise
        # `process --retry` and the like: an option whose value is not named is a mention of the option.
        return None if "requires an argument" in error.format_message() else error.format_message()
    if rest:
        return f"too many arguments: {' '.join(rest)}"
    positional = [one for one in command.params if one.param_type_name == "argument" and one.required]
    if all(word.startswith("--") for word in given):
        return None  # options without what they apply to
    absent = [
        one.name
        for one in positional
        if values.get(str(one.name)) in (None, ()) or "UNSET" in str(values[one.name])
    ]
    absent += [
        one.opts[0]
        for one in command.params
        if one.param_type_name == "option" and one.required and one.name not in values
    ]
    return f"lacks {', '.join(map(str, absent))}" if absent else None


def test_the_search_finds_what_messages_and_pages_recommend() -> None:
    places = {mention.place.partition("/")[0] for mention in MENTIONS}
    assert {"README.md", "docs", "fossilray"} <= places
    assert len(MENTIONS) > 150


def test_every_recommended_command_line_parses() -> None:
    faults = [f"{mention}: {why}" for mention in MENTIONS if (why := fault(mention)) is not None]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "line",
    [
        "retry RUN --all",
        "process S --retry-failed --run R",
        "verify",
        "no-such RUN",
        "index rebuild I",
        "gc RUN --older-than",
    ],
)
def test_a_planted_mistake_is_found(line: str) -> None:
    found = fault(Mention("here", tuple(line.split())))
    assert (found is None) == (line in ("verify", "gc RUN --older-than"))


def test_every_option_that_a_message_names_belongs_to_a_command() -> None:
    known = {
        spelling
        for command in every_command(PROGRAM)
        for option in command.params
        for spelling in (*option.opts, *option.secondary_opts)
    } | OTHERS
    unknown = [
        f"{path.relative_to(ROOT)}: {option}"
        for path in SOURCES
        for text in strings(path)
        if not re.search(OTHER_PROGRAMS, text) and path.name != "svg_charts.py"  # CSS
        for option in re.findall(r"(?<![\w(-])--[a-z][a-z-]+[a-z]\b(?!:)", text)
        if option not in known
    ]
    assert not unknown


def every_command(group: Any) -> Iterator[Any]:
    for command in group.commands.values():
        yield command
        if hasattr(command, "commands"):
            yield from every_command(command)


def test_no_option_states_a_negation_that_can_be_negated() -> None:
    """`--no-x` exists only as the other half of `--x`, so that nothing reads "not without"."""
    alone = [
        f"{command.name}: {option.opts}"
        for command in every_command(PROGRAM)
        for option in command.params
        if any(re.match(r"--(no|without|not|dis|skip)-", spelling) for spelling in option.opts)
    ]
    assert not alone


def test_double_negatives_are_not_in_help_or_messages() -> None:
    pattern = re.compile(
        r"\b(not|never|no|nothing|cannot) (un(like|til now)\b|without\b|none\b|no\b)", re.IGNORECASE
    )
    found = [
        f"{path.relative_to(ROOT)}: {text[:100]}"
        for path in SOURCES
        if "cli" in path.relative_to(ROOT).parts
        for text in strings(path)
        if pattern.search(text)
    ]
    assert not found


@pytest.mark.parametrize("words", [["-h"], ["process", "-h"], ["index", "-h"], ["index", "build", "-h"]])
def test_h_is_help_everywhere(words: list[str]) -> None:
    answer = invoke(*words)
    assert answer.exit_code == 0
    assert "Usage:" in answer.stdout


def test_the_version_is_an_option_and_a_command() -> None:
    answers = [invoke(*words) for words in (["--version"], ["version"])]
    assert [answer.exit_code for answer in answers] == [0, 0]
    assert answers[0].stdout == answers[1].stdout
    assert __version__ in answers[0].stdout


READERS = {"status", "failures", "query", "verify", "gc", "report", "retry"}


def test_recommended_commands_that_need_a_run_alone_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where outputs without a name go
    store = write_small_run(tmp_path / "run")
    ran = set()
    for mention in MENTIONS:
        name, *rest = mention.words
        if (
            name not in READERS
            or not rest
            or {"…", "--watch", "--config", "--predictions", "VALUE"} & set(rest)
        ):
            continue
        if (
            rest[0].startswith("-")
            or name == "retry"
            or re.search("predictions|discovery|curation|embeddings", " ".join(rest))
        ):
            continue
        words = [name, store.url, *rest[1:]]
        words = ["1d" if word in ("AGE", "DAYS") else word for word in words]
        for before, word in itertools.pairwise(rest):
            if before == "--out":
                words[words.index(word)] = str(tmp_path / Path(word).name)
        if "--slide" in words or tuple(words) in ran:
            continue
        ran.add(tuple(words))
        answer = invoke(*words)
        assert answer.exit_code == 0, f"{mention}: {answer.output} {answer.exception}"
    assert len(ran) > 8
