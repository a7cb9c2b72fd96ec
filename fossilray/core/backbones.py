"""The rule that vectors of two backbones are never compared, whatever their length."""

from __future__ import annotations

from typing import Protocol

from fossilray.core.errors import UsageError


class BackboneIdentity(Protocol):
    """Name and weights, by which one backbone differs from another."""

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str:
        """Digest of its weights; empty for a backbone without weights."""
        ...


def require_comparable(
    ours: BackboneIdentity, theirs: BackboneIdentity, *, of_ours: str, of_theirs: str, remedy: str
) -> None:
    """Refuse to compare vectors of two backbones.

    of_ours: the beginning of the message, before the first backbone: `runs/index indexes vectors of`. of_theirs: the
    other vectors: `the vectors of runs/a`. remedy: a clause in the imperative.

    Raises:
        UsageError: the weights of the two backbones differ; of backbones without weights, the names.
    """
    if ours.sha256 == theirs.sha256 and (ours.sha256 or ours.name == theirs.name):
        return
    raise UsageError(
        f"{of_ours} {describe_backbone(ours)}, and {of_theirs} are of another backbone, "
        f"{describe_backbone(theirs)}; {remedy}"
    )


def describe_backbone(backbone: BackboneIdentity) -> str:
    """Return its name and the first digits of its weights' digest."""
    return f"{backbone.name} ({backbone.sha256[:12] or 'no weights'})"
