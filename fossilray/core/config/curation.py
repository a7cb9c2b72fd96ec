"""Configuration of `fossilray curate`: clusters, rules and weights."""

from __future__ import annotations

from pydantic import Field

from fossilray.core.config.base import Section


class CurationConfig(Section):
    """Clusters of crops, rules that leave clusters out, and weights of crops.

    Rules apply to single objects; a cluster is left out if `share` of its objects meets a rule.
    """

    clusters: int = Field(
        200, ge=1, description="Number of clusters of similar crops; fewer if there are few crops."
    )
    families: int = Field(
        20, ge=1, description="Number of families into which the centres of the clusters are grouped."
    )
    sample: int = Field(
        100_000,
        ge=1,
        description="Number of vectors on which the clusters are fitted; every object is then assigned to "
        "one.",
    )
    sample_slides: int = Field(
        400, ge=1, description="Maximum number of slides from which these vectors come."
    )
    seed: int = Field(0, ge=0, description="Random seed; equal seeds and runs give equal clusters.")
    share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="A cluster is left out if at least this share of its objects meets a rule.",
    )
    black_opacity: float = Field(
        0.6,
        description="Rule `black`: mean optical density of the box above this; 0.6 is a quarter of the light.",
    )
    empty_opacity: float = Field(
        0.02, description="Rule `empty`: mean optical density of the box below this."
    )
    blurry_share: float = Field(
        0.2,
        ge=0,
        description="Rule `blurry`: sharpness below this share of the typical value for objects of that size.",
    )
    crowded_objects: int = Field(
        3,
        ge=2,
        description="Rule `several objects`: at least this many objects have their centre in the box, its own "
        "included.",
    )
    crowded_overlap: float = Field(
        0.3, ge=0, le=1, description="Rule `several objects`, too: IoU with another object above this."
    )
    smallest_um: float = Field(0.0, ge=0, description="Rule `small`: longest side below this.")
    largest_um: float | None = Field(
        None, gt=0, description="Rule `large`: longest side above this; unset: the rule is off."
    )
    balance: float = Field(
        1.0,
        ge=0,
        le=1,
        description="A crop's weight is its cluster's size to the power of minus this; 0: equal weights.",
    )
    most_weight: float = Field(
        4.0, ge=1, description="Maximum weight of a crop; weights of kept crops average 1."
    )
    shown: int = Field(16, ge=1, le=100, description="Crops on the contact sheet of a cluster.")
