"""The command line: all commands, in groups by what the user wants."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import typer
from rich.markup import escape

from fossilray.cli import (
    audit,
    chart,
    classify,
    classify_by_labels,
    discovery,
    doctor,
    estimate,
    evaluate,
    explain,
    export,
    identify,
    inference,
    labels,
    maintain,
    process,
    results,
    samples,
    serve,
    similar,
    specimens,
    submit,
    suggest,
    synthetic,
    train,
)
from fossilray.cli.command_help import PlainCommand, group_with_default
from fossilray.cli.output import err
from fossilray.cli.root import RootGroup
from fossilray.core.errors import FossilrayError
from fossilray.core.text import strip_control_characters

Command = Callable[..., None]


@dataclass(frozen=True)
class Subcommands:
    """A command of two words: its help, and its second words."""

    help: str
    commands: dict[str, Command]
    aliases: dict[str, str] = field(default_factory=dict)
    """Other second words, which help does not list: published names of evaluations."""
    default: str | None = None
    """The second word that is meant where a run follows the first at once."""


COMMANDS: dict[str, dict[str, Command | Subcommands]] = {
    "Process slides": {
        "demo": synthetic.demo,
        "synth": synthetic.synth,
        "catalog": process.catalog,
        "estimate": estimate.estimate_archive,
        "process": process.process_slides,
        "trace": process.trace,
    },
    "Look at a run": {
        "status": results.run_status,
        "report": results.report,
        "query": results.query_run,
        "chart": chart.chart,
        "serve": serve.serve,
        "samples": Subcommands(
            "Export and correct wells, depths and samples of a run's slides.",
            {
                "export": samples.export_samples,
                "import": samples.import_samples,
                "history": samples.history,
            },
        ),
    },
    "Export and cite": {
        "crops": export.crops,
        "export": export.export,
        "cite": specimens.cite,
        "plate": specimens.plate,
    },
    "Look after a run": {
        "failures": maintain.failures,
        "retry": maintain.retry,
        "verify": maintain.verify,
        "gc": maintain.gc,
        "compact": maintain.compact,
    },
    "Label and classify": {
        "suggest": suggest.suggest,
        "labels": Subcommands(
            "Import, export and show labels of a run's objects.",
            {
                "import": labels.import_labels,
                "export": labels.export_set,
                "show": labels.show,
                "status": labels.status_in_run,
                "withdraw": labels.withdraw,
            },
        ),
        "classify": Subcommands(
            "From labels to charts in one command, `fossilray classify RUN --labels FOLDER`, or step by step.",
            {
                "all": classify_by_labels.classify_by_labels,
                "train": classify.classify_train,
                "run": inference.classify_objects,
            },
            default="all",
        ),
        "identify": identify.identify,
        "discover": discovery.discover,
    },
    "Train backbones": {
        "curate": train.curate,
        "train": Subcommands(
            "Train backbones.", {"backbone": train.train_backbone, "metric": train.train_metric}
        ),
        "embed": inference.embed,
    },
    "Check predictions": {
        "calls": discovery.calls,
        "audit": Subcommands(
            "Measure on a random sample how many predictions are wrong.",
            {"draw": audit.draw_sample, "report": audit.report_wrong},
        ),
        "explain": explain.explain,
        "evaluate": Subcommands(
            "Evaluate a backbone on labelled crops by published protocols.",
            {
                "classification": evaluate.classification,
                "retrieval": evaluate.retrieval,
                "metric-learning": evaluate.metric_learning,
                "transfer": evaluate.transfer,
                "uncertainty": evaluate.uncertainty,
            },
            {
                "martinsen2024": "classification",
                "scampi": "retrieval",
                "karaderi2021": "metric-learning",
                "liu2022": "transfer",
            },
        ),
    },
    "Search by similarity": {
        "index": Subcommands(
            "Build and inspect indexes that `fossilray similar` searches.",
            {"build": similar.build, "status": similar.index_status, "duplicates": similar.duplicates},
        ),
        "similar": similar.similar,
    },
    "Work on a cluster": {
        "submit": submit.submit,
        "job": Subcommands(
            "Look after jobs that were submitted to a cluster.",
            {
                "list": submit.list_jobs,
                "status": submit.job_status,
                "logs": submit.logs,
                "stop": submit.stop,
            },
        ),
    },
    "This installation": {
        "doctor": doctor.doctor,
        "config": doctor.print_config,
        "version": doctor.version,
    },
}
"""Every command, by the title of its group and by name."""

RootGroup.sections = {title: list(commands) for title, commands in COMMANDS.items()}

app = typer.Typer(
    name="fossilray",
    cls=RootGroup,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},  # of every command below, too
)
app.callback()(doctor.global_options)
for commands in COMMANDS.values():
    for name, command in commands.items():
        if isinstance(command, Subcommands):
            group = typer.Typer(
                cls=group_with_default(command.default),
                help=command.help,
                no_args_is_help=True,
                rich_markup_mode=None,
            )
            for second, function in command.commands.items():
                group.command(name=second, cls=PlainCommand)(function)
            for alias, second in command.aliases.items():
                group.command(name=alias, cls=PlainCommand, hidden=True)(command.commands[second])
            app.add_typer(group, name=name)
        else:
            app.command(name=name, cls=PlainCommand)(command)


def main() -> None:
    """Run a command; print a FossilrayError in one sentence on stderr and exit with the code of its class."""
    try:
        app()
    except FossilrayError as error:
        # The message of a fault of fossilray itself includes a traceback, in lines.
        message = "\n".join(strip_control_characters(line) for line in str(error).split("\n"))
        err.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print(
            "interrupted; slides in progress were not committed, run the same command again to resume",
            highlight=False,
        )
        sys.exit(130)
