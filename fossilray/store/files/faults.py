"""Faults of disks and object stores, translated into errors with a remedy."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from fossilray.core.errors import (
    ConditionalCreateUnsupported,
    StoreAccessDenied,
    StoreError,
    StoreFull,
    StoreUnreachable,
)
from fossilray.core.os_errors import NO_SPACE, UNREACHABLE
from fossilray.store.files.options import first_sentence, http_status, is_retryable, transport_errors


@contextmanager
def translate_errors(
    url: str, act: str, *, protocol: str = "file", refusal: type[StoreError] = StoreError
) -> Iterator[None]:
    """Turn what libraries and the operating system raise into a StoreError, absent files apart.

    refusal: what a disk's own refusals become.

    Raises:
        StoreUnreachable: the store may be reachable later; for a disk or a share, input and output errors.
        StoreAccessDenied: an object store refuses the credentials.
        StoreFull: it has no room.
        StoreError: it refuses.
    """
    faults: tuple[type[Exception], ...] = (OSError, *transport_errors(protocol))
    try:
        yield
    except FileNotFoundError as error:
        if act.startswith("write"):
            raise StoreError(f"cannot write to {url}: {first_sentence(error)}; create it first") from None
        raise
    except faults as error:
        text = f"cannot {act} {url}: {first_sentence(error)}; "
        code = getattr(error, "errno", None)
        if code in NO_SPACE:
            raise StoreFull(
                text + "free some space and start the same command again; committed slides are kept"
            ) from None
        if protocol == "file" and (code in UNREACHABLE or code == errno.EROFS):
            raise StoreUnreachable(
                text
                + "check the disk or the share that holds it, and start the same command again; committed "
                "slides are kept"
            ) from None
        if protocol != "file" and is_retryable(error, protocol):
            raise StoreUnreachable(
                text
                + "check the network and store.endpoint_url, and start the same command again; committed "
                "slides are kept"
            ) from None
        kind = StoreAccessDenied if protocol != "file" and _is_forbidden(error) else refusal
        raise kind(text + _remedy(error, protocol)) from None


def is_away(url: str, mark: str) -> StoreUnreachable:
    """The error about a run directory that existed before and is missing now; mark: the file that every one has."""
    return StoreUnreachable(
        f"{url} holds no {mark} any more: the disk or the share that holds it is not mounted; mount it, and start the "
        "same command again; committed slides are kept"
    )


def conditional_create_unsupported(url: str, why: str) -> ConditionalCreateUnsupported:
    """The refusal of a store in which two workers could both commit a slide."""
    return ConditionalCreateUnsupported(
        f"{url} cannot create a file only if it is absent ({why}), so two workers could both commit a slide; "
        "use another store, or promise with --single-writer that one driver alone commits"
    )


def _is_forbidden(error: Exception) -> bool:
    return isinstance(error, PermissionError) or http_status(error) in (401, 403)


def _remedy(error: Exception, protocol: str) -> str:
    code = getattr(error, "errno", None)
    if _is_forbidden(error):
        if protocol == "file":
            return "change its permissions, or choose another run directory"
        return "check store.profile, and what its credentials may do and until when"
    if protocol == "file" or code is not None:
        return "check the address, or choose another run directory"
    return "check store.endpoint_url, store.profile and the network"
