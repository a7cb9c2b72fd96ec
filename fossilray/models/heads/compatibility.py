"""The check that a head and the vectors it is to predict on are of one backbone."""

from __future__ import annotations

from fossilray.core.errors import UsageError
from fossilray.models.heads.head import BackboneReference, HeadMeta

OTHER_VECTORS = (
    "give --embeddings of that backbone (`fossilray embed`), or a head that was trained on these vectors"
)


def require_same_backbone(
    head: HeadMeta, vectors: BackboneReference, *, subject: str, remedy: str = OTHER_VECTORS
) -> None:
    """Refuse a head on vectors of another backbone: a classifier means nothing on them, whatever their length.

    vectors: the backbone that made them. subject: their name in the message, `the vectors of runs/a`. remedy: a
    clause in the imperative.

    Raises:
        UsageError: the weights of the two backbones differ; of backbones without weights, the names.
    """
    trained_on = head.backbone
    if trained_on.sha256 == vectors.sha256 and (trained_on.sha256 or trained_on.name == vectors.name):
        return
    raise UsageError(
        f"the head was trained on vectors of {_describe(trained_on)}, and {subject} are of another backbone, "
        f"{_describe(vectors)}; {remedy}"
    )


def _describe(backbone: BackboneReference) -> str:
    return f"{backbone.name} ({backbone.sha256[:12] or 'no weights'})"
