"""Files beside the committed slides: attempts, heartbeats, pictures, pending commits, corrections to samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from fossilray.core.errors import StoreError, StoreUnreachable
from fossilray.core.formats import parse_record
from fossilray.core.formats.images import decode_image
from fossilray.core.heartbeat import Heartbeat
from fossilray.core.parallel import map_in_chunks
from fossilray.store.files.base import READ_THREADS
from fossilray.store.maintenance.slide_check import FindingKind, VerifyFinding
from fossilray.store.run.attempts import AttemptLog, read_attempts
from fossilray.store.run.layout import ATTEMPTS, PENDING, slide_of
from fossilray.store.run.objects_file import read_stored_footer
from fossilray.store.run.roles import heartbeat, picture
from fossilray.store.samples.rounds import SAMPLES, is_round, list_rounds, parse_round

PICTURES = "pictures"
MOST_PICTURE_PX = 64_000_000


def check_side_files(log: AttemptLog, *, deep: bool) -> Iterator[VerifyFinding]:
    """Yield findings about damaged side files; no committed slide depends on any of them.

    A missing round of samples is a finding too.

    deep: also read pictures and the records of attempts at committed slides, which are many.

    Raises:
        StoreUnreachable: the store cannot be reached.
    """
    yield from _check(log, log.files.find("drivers"), "heartbeat", _check_heartbeat)
    yield from _check(log, log.files.find(PENDING), "pending", _check_pending)
    try:
        list_rounds(log.files)
    except StoreUnreachable:
        raise
    except StoreError as error:
        yield VerifyFinding("", SAMPLES, "samples", str(error))
    rounds = [path for path in log.files.find(SAMPLES) if is_round(path)]
    yield from _check(log, rounds, "samples", _check_round)
    slide_ids = log.files.names(ATTEMPTS)
    if not deep:
        committed = log.committed()
        slide_ids = [slide_id for slide_id in slide_ids if slide_id not in committed]
    for message in read_attempts(log.files, slide_ids).damaged:
        yield VerifyFinding("", ATTEMPTS, "attempt", message)
    if deep:
        yield from _check(log, log.files.find(PICTURES), "picture", _check_picture)


def _check(
    log: AttemptLog, paths: Sequence[str], kind: FindingKind, check: Callable[[AttemptLog, str], None]
) -> Iterator[VerifyFinding]:
    def fault(path: str) -> str:
        try:
            check(log, path)
        except (StoreUnreachable, FileNotFoundError) as error:
            if isinstance(error, FileNotFoundError):
                return ""  # it was listed and is gone: another process deleted it
            raise
        except StoreError as error:
            return str(error)
        return ""

    for path, message in zip(paths, map_in_chunks(fault, list(paths), threads=READ_THREADS), strict=True):
        if message:
            yield VerifyFinding(
                "" if kind in ("heartbeat", "samples") else slide_of(path), path, kind, message
            )


def _check_heartbeat(log: AttemptLog, path: str) -> None:
    parse_record(Heartbeat, log.files.read(path), heartbeat(f"{log.url}/{path}"))


def _check_pending(log: AttemptLog, path: str) -> None:
    read_stored_footer(log.files, path)


def _check_round(log: AttemptLog, path: str) -> None:
    parse_round(log.files.read(path), f"{log.url}/{path}")


def _check_picture(log: AttemptLog, path: str) -> None:
    decode_image(log.files.read(path), picture(f"{log.url}/{path}"), most_px=MOST_PICTURE_PX)
