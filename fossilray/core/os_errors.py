"""Error numbers of the operating system, grouped by what they mean for a slide or a run directory."""

from __future__ import annotations

import errno

NOT_FOUND = frozenset((errno.ENOENT, errno.ENOTDIR))


NO_SPACE = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


UNREACHABLE = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "ESTALE", "ENOTCONN", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET"),
        *("ETIMEDOUT", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "EPIPE", "ESHUTDOWN", "ENODEV", "ENXIO"),
        *("EREMOTEIO", "ENOLINK", "ENONET", "EPROTO", "ECOMM", "ENOMEDIUM", "EUCLEAN", "EBADMSG", "EBUSY"),
        *("ETXTBSY", "ENOLCK", "EAGAIN", "EKEYEXPIRED", "ENOKEY", "EKEYREVOKED"),
    )
    # Some exist on Linux only.
    if hasattr(errno, name)
)
"""Errors of disks, network shares and FUSE that are unavailable, for one file or for all."""


REFUSED_REMEDIES = {
    errno.EACCES: "give the account that runs the workers permission to read it",
    errno.EPERM: "give the account that runs the workers permission to read it",
    errno.EISDIR: "it is a folder; name the slide's file",
    errno.ELOOP: "its links form a circle; correct them",
    errno.ENAMETOOLONG: "shorten its name",
    errno.EINVAL: "its name is not valid on the file system; rename it",
}


NO_RESOURCES = frozenset((errno.ENOMEM, errno.EMFILE, errno.ENFILE))
