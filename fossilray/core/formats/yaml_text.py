"""YAML with bounds: aliases count as often as they stand, and a key stands once."""

from __future__ import annotations

from typing import Any

import yaml

from fossilray.core.formats.file_role import FileRole

MAX_YAML_CHARACTERS = 2**20
MAX_YAML_NODES = 100_000
"""Values, keys and collections, 100 characters each, those behind an alias counted each time it stands."""

MAX_YAML_DEPTH = 32

_LONGEST_NUMBER = 1000
"""Characters; Python itself reads some more digits, and no setting needs them."""

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """Report the line of a scalar that is not of its type."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            return super().construct_object(node, deep=deep)
        line = f"line {node.start_mark.line + 1}"
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if kind in ("int", "float") and len(node.value) > _LONGEST_NUMBER:
            raise ValueError(f"{line} has a number that is too long, of {len(node.value):,} digits")
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, TypeError, OverflowError, LookupError, AttributeError) as error:
            if kind == "timestamp":
                raise ValueError(f"{line} has {node.value!r:.60}, which is not a date: {error}") from None
            raise ValueError(f"{line} has {node.value!r:.60}, which is not a {kind}") from None


def parse_yaml(text: str, role: FileRole) -> Any:
    """The value of a YAML text, of plain types only.

    Raises:
        role.error: it is not YAML, has a key twice, or unfolds to more than a file of settings may hold.
    """
    if len(text) > MAX_YAML_CHARACTERS:
        raise role.damaged(f"it has {len(text):,} characters, more than {MAX_YAML_CHARACTERS:,}")
    try:
        _check_nesting(text)
        return _load(text)
    except yaml.YAMLError as error:
        raise role.damaged(f"it is not YAML: {' '.join(str(error).split())}") from None
    # ValueError: what is refused here, a date such as 2026-99-99, a number of 5,000 digits, or a lone surrogate.
    except (ValueError, TypeError, OverflowError, RecursionError, LookupError, AttributeError) as error:
        raise role.damaged(error) from None


def _check_nesting(text: str) -> None:
    """Refuse too many levels from the events alone, because composing recurses."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_YAML_DEPTH:
            raise ValueError(f"it is more than {MAX_YAML_DEPTH} levels deep")


def _load(text: str) -> Any:
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _unfold(root, {}, depth=0)
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _unfold(node: yaml.Node, counted: dict[int, tuple[int, int] | None], *, depth: int) -> tuple[int, int]:
    """Number of nodes with every alias expanded, and number of levels.

    Raises:
        ValueError: too many, too deep, without end, or a mapping has a key twice.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1 + len(node.value) // 100, 0
    if id(node) in counted:
        known = counted[id(node)]
        if known is None:
            raise ValueError("an alias is inside the node that it refers to")
        return known
    counted[id(node)] = None
    if isinstance(node, yaml.MappingNode):
        _refuse_repeats(node)
        inner = [child for pair in node.value for child in pair]
    else:
        inner = list(node.value)
    total, levels = 1, 0
    for child in inner:
        below, height = _unfold(child, counted, depth=depth + 1)
        total, levels = total + below, max(levels, height + 1)
        if total > MAX_YAML_NODES or depth + levels > MAX_YAML_DEPTH:
            raise ValueError(
                f"it unfolds to more than {MAX_YAML_NODES:,} values or {MAX_YAML_DEPTH} levels; write values out "
                "instead of aliases"
            )
    counted[id(node)] = total, levels
    return total, levels


def _refuse_repeats(node: yaml.MappingNode) -> None:
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            if (key.tag, key.value) in seen:
                raise ValueError(
                    f"line {key.start_mark.line + 1} has the key {key.value!r:.60} a second time"
                )
            seen.add((key.tag, key.value))
