"""The command line: one command per question a user asks of a run."""

from __future__ import annotations

import sys

import typer
from rich.markup import escape

from fossilray.cli import (
    certainty,
    chart,
    doctor,
    estimate,
    evaluate,
    explain,
    export,
    inference,
    labels,
    maintain,
    process,
    results,
    similar,
    submit,
    train,
)
from fossilray.cli.options import CommandGroup, err
from fossilray.core.errors import FossilrayError
from fossilray.core.text import strip_control_characters

app = typer.Typer(
    name="fossilray",
    cls=CommandGroup,
    help="From scanned palynology slides to a census of microfossils.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},  # of every command below, too
)
app.callback()(doctor.global_options)
for command in (
    *(process.process, process.catalog, estimate.estimate, submit.submit),
    *(results.status, results.report, chart.chart, results.query, export.crops, export.export),
    process.trace,
    *(maintain.failures, maintain.retry, maintain.verify, maintain.gc, maintain.compact),
    *(certainty.calls, certainty.discover),
    *(inference.embed, train.curate, labels.suggest),
    similar.similar,
    *(evaluate.evaluate, explain.explain),
    *(process.synth, process.demo),
    *(doctor.doctor, doctor.version),
):
    app.command()(command)
app.command(name="config")(doctor.print_config)

classify = typer.Typer(help="Classifiers: taught on labels, asked about a run.", no_args_is_help=True)
classify.command(name="train")(evaluate.classify_train)
classify.command(name="run")(inference.classify_run)
app.add_typer(classify, name="classify")

labelling = typer.Typer(help="Labels that people give to objects of a run.", no_args_is_help=True)
labelling.command(name="import")(labels.import_labels)
labelling.command(name="show")(labels.show)
app.add_typer(labelling, name="labels")

index = typer.Typer(help="Indexes over runs, in which `fossilray similar` looks.", no_args_is_help=True)
index.command(name="build")(similar.build)
index.command(name="status")(similar.status)
index.command(name="duplicates")(similar.duplicates)
app.add_typer(index, name="index")

job = typer.Typer(help="Jobs that were submitted to a cluster.", no_args_is_help=True)
job.command(name="list")(submit.list_jobs)
job.command(name="status")(submit.status)
job.command(name="logs")(submit.logs)
job.command(name="stop")(submit.stop)
app.add_typer(job, name="job")

training = typer.Typer(help="Trainings of networks.", no_args_is_help=True)
training.command(name="backbone")(train.train_backbone)
training.command(name="metric")(train.train_metric)
app.add_typer(training, name="train")


def main() -> None:
    """Run a command; a FossilrayError is one sentence on stderr and the exit code of its class."""
    try:
        app()
    except FossilrayError as error:
        # A fault of fossilray itself brings its traceback along, in lines.
        told = "\n".join(strip_control_characters(line) for line in str(error).split("\n"))
        err.print(f"[bold red]error:[/] {escape(told)}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("stopped; slides in flight were not committed, the same command goes on from here")
        sys.exit(130)
