"""The check that a head and the vectors it is to predict on are of one backbone."""

from __future__ import annotations

from fossilray.core.backbones import BackboneIdentity, require_comparable
from fossilray.models.heads.head import HeadMeta

OTHER_VECTORS = (
    "give --embeddings of that backbone (`fossilray embed`), or a head that was trained on these vectors"
)


def require_same_backbone(
    head: HeadMeta, vectors: BackboneIdentity, *, subject: str, remedy: str = OTHER_VECTORS
) -> None:
    """Refuse a head on vectors of another backbone: a classifier means nothing on them.

    vectors: the backbone that made them. subject: their name in the message, `the vectors of runs/a`. remedy: a
    clause in the imperative.

    Raises:
        UsageError: the weights of the two backbones differ; of backbones without weights, the names.
    """
    require_comparable(
        head.backbone,
        vectors,
        of_ours="the head was trained on vectors of",
        of_theirs=subject,
        remedy=remedy,
    )
