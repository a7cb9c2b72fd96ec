"""The purpose of each file of a run, and what restores it: the parts of a message about a damaged file."""

from __future__ import annotations

from fossilray.core.formats import FileRole
from fossilray.store.run.layout import slide_of


def run_record(url: str) -> FileRole:
    return FileRole(
        f"{url}/run.json",
        "the record of what decides the run's results",
        "bring it back from a copy, or choose another run directory",
    )


def catalog_part(name: str) -> FileRole:
    return FileRole(
        name,
        "the run's catalog",
        "delete it and start the same `fossilray process` command again, which writes its slides again",
    )


def objects_file(name: str) -> FileRole:
    return FileRole(
        name,
        f"the objects of slide {slide_of(name)}",
        "`fossilray verify RUN --withdraw` moves it out of objects/, and the command that made the run then makes the "
        "slide again",
    )


def summaries_part(name: str) -> FileRole:
    return FileRole(
        name,
        "summaries of committed slides, gathered",
        "`fossilray verify RUN --rebuild` writes slides/ again",
    )


def attempt_record(name: str) -> FileRole:
    return FileRole(
        name, "the record of an attempt at a slide", "delete it; the record of that attempt is lost"
    )


def heartbeat(name: str) -> FileRole:
    return FileRole(name, "a driver's last heartbeat", "delete it; a driver at work writes it again")


def picture(name: str) -> FileRole:
    return FileRole(
        name, "the small picture of a slide", "delete it; reports show the slide without a picture"
    )


def derived_record(name: str) -> FileRole:
    return FileRole(
        name,
        "the record of what made these embeddings or predictions",
        "delete it and start the command that made them again, or choose another name",
    )


def derived_file(name: str) -> FileRole:
    return FileRole(
        name,
        f"embeddings or predictions of slide {slide_of(name)}",
        "delete it and start the command that made it again",
    )


def array_metadata(name: str) -> FileRole:
    return FileRole(
        name,
        "metadata of a slide's crops and embeddings",
        "see what else is damaged with `fossilray verify`; --withdraw has the slide made again",
    )


def dataset_record(url: str) -> FileRole:
    return FileRole(
        f"{url}/dataset.json",
        "the record of a compacted dataset",
        "compact the run again into another folder",
    )


def dataset_part(name: str) -> FileRole:
    return FileRole(name, "a table of a compacted dataset", "compact the run again into another folder")
