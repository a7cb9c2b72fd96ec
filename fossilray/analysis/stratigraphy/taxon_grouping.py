"""Grouping of labels and predicted names into the taxa of a taxonomy, and the names that are left out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from fossilray.core.config.choices import TaxonRank
from fossilray.core.errors import UsageError
from fossilray.core.text import list_some
from fossilray.labels.taxonomy import Taxonomy, taxon_key

UNDETERMINED = " undetermined"
"""End of the name of labels at a coarser rank than the chart's, as in `Areoligeraceae undetermined`."""


@dataclass(frozen=True)
class TaxonGrouping:
    """Labels grouped into taxa of one rank."""

    taxa: tuple[str, ...]
    groups: tuple[str, ...]
    """The group of each taxon, empty if it has none."""
    taxon_of_label: tuple[int, ...]
    """Index of the taxon of each label; -1: left out."""
    merged: tuple[tuple[str, tuple[str, ...]], ...]
    """Each taxon that includes labels of other names, with these labels."""
    unknown: tuple[str, ...]
    """Labels that the taxonomy lacks; each is a taxon under its own name."""


def group_taxa(
    labels: Sequence[str],
    taxonomy: Taxonomy | None,
    *,
    rank: TaxonRank = "genus",
    leave_out: Sequence[str] = (),
    uncounted: Sequence[str] = (),
    apart: Collection[str] = (),
) -> TaxonGrouping:
    """Group labels into taxa of a rank. Without a taxonomy, each label is a taxon.

    Args:
        leave_out: labels, taxa or groups that are not counted.
        uncounted: labels that are not counted either, such as marker grains.
        apart: names of what is not counted anyway, which `leave_out` may name as well.

    Raises:
        UsageError: a name in `leave_out` is not a label, taxon or group.
    """
    rows = [None if taxonomy is None else taxonomy.find(label.removesuffix(UNDETERMINED)) for label in labels]
    names = [
        label if row is None or label.endswith(UNDETERMINED) else row.at(rank)
        for label, row in zip(labels, rows, strict=True)
    ]
    names = _in_one_spelling(names)
    groups = ["" if row is None else row.group for row in rows]
    wanted = {taxon_key(name): name for name in leave_out}
    known = {taxon_key(name) for name in (*labels, *names, *groups, *apart)}
    if missing := [name for key, name in wanted.items() if key not in known]:
        raise UsageError(
            f"{list_some(missing)} is not a label, taxon or group here and cannot be left out; the taxa are "
            f"{list_some(sorted(set(names)), most=20)}"
        )
    is_left_out = [
        label in uncounted or any(taxon_key(part) in wanted for part in (label, name, group))
        for label, name, group in zip(labels, names, groups, strict=True)
    ]
    taxa = list(dict.fromkeys(name for name, out in zip(names, is_left_out, strict=True) if not out))
    members: dict[str, list[str]] = {}
    for label, name in zip(labels, names, strict=True):
        if label != name:
            members.setdefault(name, []).append(label)
    return TaxonGrouping(
        taxa=tuple(taxa),
        groups=tuple(groups[names.index(taxon)] for taxon in taxa),
        taxon_of_label=tuple(
            -1 if out else taxa.index(name) for name, out in zip(names, is_left_out, strict=True)
        ),
        merged=tuple((taxon, tuple(merged)) for taxon, merged in sorted(members.items())),
        unknown=()
        if taxonomy is None
        else tuple(label for label, row in zip(labels, rows, strict=True) if row is None),
    )


def _in_one_spelling(names: Sequence[str]) -> list[str]:
    """Return names of which those that differ in case or underscores only are spelled as the first of them."""
    spelling: dict[str, str] = {}
    return [spelling.setdefault(taxon_key(name), name) for name in names]
