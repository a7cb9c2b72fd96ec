"""The configuration of `fossilray curate`: how crops are clustered, what is left out, how the rest counts."""

from __future__ import annotations

from pydantic import Field

from fossilray.core.config.base import Section


class CurationConfig(Section):
    """How crops are sorted into clusters, which clusters are left out, and how much each crop counts.

    A rule is about single objects; a cluster is left out where `share` of its objects meet one.
    """

    clusters: int = Field(
        200, ge=1, description="Clusters of crops that look alike; fewer where crops are few."
    )
    families: int = Field(20, ge=1, description="Families that clusters are put into, by their centres.")
    sample: int = Field(
        100_000, ge=1, description="Vectors that the clusters are found with; every object is assigned."
    )
    sample_slides: int = Field(400, ge=1, description="Most slides that these vectors come from.")
    seed: int = Field(0, ge=0, description="Equal seeds over equal runs give equal clusters.")
    share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of a cluster's objects that must meet a rule for it to be left out.",
    )
    black_opacity: float = Field(
        0.6, description="Black: mean optical density of the box above this, a quarter of the light."
    )
    empty_opacity: float = Field(0.02, description="Empty: mean optical density of the box below this.")
    blurry_share: float = Field(
        0.2, ge=0, description="Blurry: sharpness below this share of what objects of its size have."
    )
    crowded_objects: int = Field(
        3,
        ge=2,
        description="Several objects: at least so many have their centre in the box, its own counted.",
    )
    crowded_overlap: float = Field(
        0.3, ge=0, le=1, description="Several objects, too: overlap (IoU) with another one above this."
    )
    smallest_um: float = Field(0.0, ge=0, description="Small: longest side below this.")
    largest_um: float | None = Field(
        None, gt=0, description="Large: longest side above this; unset: none is."
    )
    balance: float = Field(
        1.0,
        ge=0,
        le=1,
        description="A crop weighs its cluster's size to the power of minus this; 0: all alike.",
    )
    most_weight: float = Field(
        4.0, ge=1, description="Most that a crop weighs; those kept weigh 1 on average."
    )
    shown: int = Field(16, ge=1, le=100, description="Crops on the sheet of a cluster.")
