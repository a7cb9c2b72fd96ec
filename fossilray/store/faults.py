"""Faults of disks and object stores, each told in one sentence with its remedy."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from fossilray.errors import NoConditionalCreate, StoreError, StoreForbids, StoreUnreachable
from fossilray.store.access import http_status, is_unanswered, one_sentence, transport_faults


@contextmanager
def told(url: str, act: str, *, protocol: str = "file") -> Iterator[None]:
    """Turn what libraries and the operating system raise into a StoreError, absent files apart.

    Raises:
        StoreUnreachable: the store may answer later.
        StoreForbids: an object store refuses the credentials.
        StoreError: it refuses, or has no room.
    """
    faults: tuple[type[Exception], ...] = (OSError, *transport_faults(protocol))
    try:
        yield
    except FileNotFoundError as error:
        if act.startswith("write"):
            raise StoreError(f"cannot write to {url}: {one_sentence(error)}; create it first") from None
        raise
    except faults as error:
        text = f"cannot {act} {url}: {one_sentence(error)}; "
        if protocol != "file" and is_unanswered(error, protocol):
            raise StoreUnreachable(
                text
                + "check the network and store.endpoint_url, and start the same command again; committed "
                "slides are kept"
            ) from None
        kind = StoreForbids if protocol != "file" and _is_forbidden(error) else StoreError
        raise kind(text + _remedy(error, protocol)) from None


def cannot_create(url: str, why: str) -> NoConditionalCreate:
    """The refusal of a store in which two workers could both commit a slide."""
    return NoConditionalCreate(
        f"{url} cannot create a file only if it is absent ({why}), so two workers could both commit a slide; "
        "use another store, or promise with --single-writer that one driver alone commits"
    )


def _is_forbidden(error: Exception) -> bool:
    return isinstance(error, PermissionError) or http_status(error) in (401, 403)


def _remedy(error: Exception, protocol: str) -> str:
    code = getattr(error, "errno", None)
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free some space and start the same command again; committed slides are kept"
    if _is_forbidden(error):
        if protocol == "file":
            return "change its permissions, or choose another run directory"
        return "check store.profile, and what its credentials may do and until when"
    if protocol == "file" or code is not None:
        return "check the address, or choose another run directory"
    return "check store.endpoint_url, store.profile and the network"
