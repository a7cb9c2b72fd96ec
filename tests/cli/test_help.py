"""The help of the program: one screen, every command in one group, one meaning for each option."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from rich.cells import cell_len
from support.cli_runner import invoke

from fossilray.cli.main import COMMANDS, Subcommands, app

PROGRAM: Any = typer.main.get_command(app)
"""Duck-typed: some versions of typer bring a click of their own."""

MEANINGS = {
    "--address": "Ray cluster",
    "--alarm-minutes": "Exit with code 4 and a message when slides are left",
    "--arch": "Architecture of the network",
    "--attribution": "Attribution method",
    "--backbone": "Backbone that",
    "--background": "coco, yolo: share of images without objects",
    "--by": "Selection strategy",
    "--candidates": "Number of candidates",
    "--clusters": "Maximum number of clusters",
    "--coder": "Quantizer of the embeddings",
    "--compare": "Compare, with --train",
    "--confidence-level": "Confidence level",
    "--config": "Configuration file (YAML)",
    "--confused": "Choose crops of either genus",
    "--confusion": "Head, or CSV of true class by predicted class",
    "--correction": "Correct counts",
    "--coverage": "Probability that a prediction set holds the true genus",
    "--crops": "Folder of crops",
    "--dashboard": "Dashboard of the Ray cluster",
    "--days": "Deadline in days",
    "--deep": "Check every checksum",
    "--depths": "CSV of slide_id and measured_depth_m",
    "--distance": "Distance of embeddings",
    "--drain-minutes": "Minutes that slides in progress get",
    "--dry-run": "Print what would be",
    "--embeddings": "Name of the embeddings to use",
    "--entrypoint-memory": "Bytes of memory reserved for the driver",
    "--entrypoint-num-cpus": "CPUs reserved for the driver",
    "--entrypoint-resources": "Custom resources reserved for the driver",
    "--error": "Class of the last failure",
    "--every": "Seconds between two reports",
    "--follow": "Show the log until the job ends",
    "--format": "Output format",
    "--from-run": "Run to take rates",
    "--genus": "Genus to explain",
    "--gpu-factor": "Assumed speed of a GPU",
    "--head": "Head: a classifier file",
    "--hold-out": "Unit held out",
    "--image": "Image file of one fossil",
    "--init": "Initial weights",
    "--input-px": "Input size of the network",
    "--instance": "Type of machine",
    "--instances": "File with a table of machines",
    "--json": "Print JSON",
    "--keep-bounds": "geojson: keep coordinates",
    "--kind": "Kind of classifier",
    "--labels": "Labelled crops",
    "--least-certain": "Choose the crops with the highest entropy",
    "--leave-out": "Label, taxon or group not to count",
    "--limit": "Maximum number of objects",
    "--lists": "Number of lists",
    "--local": "Train with one worker in this process",
    "--loss": "Loss of the metric space",
    "--machines": "Number of such machines",
    "--maps": "Draw t-SNE and UMAP maps",
    "--match": "Another well of the run",
    "--match-distance": "Squared chord distance",
    "--method": "Training method",
    "--min-objects": "Samples of fewer objects",
    "--min-workers": "Minimum number of workers",
    "--name": "Name of the new",
    "--name-pattern": "Regular expression",
    "--neighbours": "Number of neighbours",
    "--novelty": "Novelty score",
    "--novelty-p": "Novelty p-value",
    "--object": "Object, by slide_id and object_id",
    "--older-than": "Minimum age",
    "--order": "Order of the taxa",
    "--out": "Output f",
    "--override": "Override all earlier labels",
    "--pool": "Size of the random sample",
    "--predictions": "Name of the predictions to use",
    "--price": "Price of a machine",
    "--probes": "Number of the index's lists to search",
    "--python": "Python interpreter on the cluster",
    "--rank": "Rank of --taxonomy",
    "--rates": "YAML file of known rates",
    "--rebuild": "Write slides/ again",
    "--reduced": "Repeat with at most so many training crops",
    "--round": "Show the label set after this round",
    "--rule": "Override one field of --rules",
    "--rules": "YAML file of thresholds",
    "--run": "Run directory",
    "--runtime-env": "YAML file with Ray's runtime environment",
    "--same-slide": "Compare objects of the same slide",
    "--sample": "Number of embeddings to fit",
    "--seed": "Random seed",
    "--set": "Override one configuration field",
    "--shard-objects": "Maximum number of objects in a shard",
    "--sheet": "Contact sheet to write",
    "--shown": "Crops on each contact sheet",
    "--single-writer": "Promise that this driver alone commits",
    "--size": "Side of each slide",
    "--skip-copies": "Count slides that are the same scan",
    "--slide": "slide_id of",
    "--slides": "Number of slides to",
    "--slides-per-file": "Maximum number of slides of a well",
    "--source": "Training data",
    "--split-by": "yolo: unit of the split",
    "--splits": "Number of random splits",
    "--square": "Write crops as stored",
    "--strict": "Exit with code 4 when any slide failed",
    "--strict-doubts": "Refuse slides with these doubts",
    "--taxonomy": "CSV or YAML with species",
    "--threshold": "Minimum cosine similarity",
    "--tile-px": "coco, yolo: side of an image",
    "--to": "Create",
    "--traceback": "Print the traceback",
    "--train": "Train the network in every split",
    "--train-set": "Override one training field",
    "--training": "Training configuration (YAML)",
    "--um-per-px": "coco, yolo: scale of the images",
    "--validation": "yolo: share of images for validation",
    "--wait": "Wait until the slides in progress have ended",
    "--watch": "Print again and again",
    "--well": "Name of the well",
    "--where": "SQL condition on the columns of",
    "--who": "Annotator",
    "--withdraw": "Move damaged slides",
    "--with-embeddings": "Write the embeddings beside the objects",
    "--withhold": "Classes of the open set",
    "--withhold-count": "Number of classes in each random open set",
    "--workers": "Number of workers",
    "--working-dir": "Folder to upload",
    "--wrong": "Share of wrong predictions to accept",
    "--zones": "Number of zones",
}
"""How the help of each option begins, in every command that has it."""


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
    group = COMMANDS["Train and evaluate"]["evaluate"]
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


def test_an_option_means_the_same_in_every_command() -> None:
    wrong = [
        f"{command} {name}: {option.help}"
        for command, name, option in options()
        if not (option.help or "").startswith(MEANINGS.get(name, "(not in the table)"))
    ]
    assert not wrong, "\n".join(wrong)


def test_the_table_of_meanings_names_no_option_that_is_gone_and_no_meaning_twice() -> None:
    assert set(MEANINGS) == {name for _, name, _ in options()}
    assert len(set(MEANINGS.values())) == len(MEANINGS)


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
