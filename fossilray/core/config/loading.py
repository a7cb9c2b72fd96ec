"""Loading of configurations from YAML and assignments, and listing of their fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from fossilray.core.config.base import KEPT_BACK, Section
from fossilray.core.config.curation import CurationConfig
from fossilray.core.config.run import RunConfig
from fossilray.core.config.training import TrainConfig
from fossilray.core.errors import ConfigError
from fossilray.core.formats import FileRole
from fossilray.core.formats.regular_file import read_regular
from fossilray.core.formats.yaml_text import MAX_YAML_CHARACTERS, parse_yaml

_MOST_BYTES = 4 * MAX_YAML_CHARACTERS

Config = TypeVar("Config", bound=Section)

EXPLAINED_BY: dict[type[Section], str] = {
    RunConfig: "`fossilray config`",
    TrainConfig: "docs/reference/configuration/training.md",
    CurationConfig: "docs/reference/configuration/curation.md",
}
"""Page or command that lists the fields of a configuration; messages refer to it."""


def load_config(path: Path | str | None, assignments: Sequence[str] = ()) -> RunConfig:
    """Load the configuration of a run from a YAML file, or the defaults, and apply assignments.

    Args:
        path: YAML file; None for the defaults.
        assignments: changes in the form `section.field=value`, as `--set` takes them.

    Raises:
        ConfigError: the file cannot be read, or a key or value is not valid.

    Example:
        >>> import fossilray
        >>> config = fossilray.load_config(None, ["crops.size_px=128", "detector.batch=4"])
    """
    return _load(RunConfig, path, assignments)


def parse_config(text: str, assignments: Sequence[str] = (), *, name: str) -> RunConfig:
    """Parse the configuration of a run from YAML text; messages call it `name`.

    Raises:
        ConfigError: as load_config.
    """
    return _validated(RunConfig, _parse_yaml(RunConfig, text, name), assignments, name)


def load_train_config(path: Path | str | None, assignments: Sequence[str] = ()) -> TrainConfig:
    """Load the configuration of a training from a YAML file, or the defaults, and apply assignments.

    Args:
        path: YAML file; None for the defaults.
        assignments: changes in the form `section.field=value` or `field=value`, as `--train-set` takes them.

    Raises:
        ConfigError: the file cannot be read, or a key or value is not valid.

    Example:
        >>> import fossilray
        >>> config = fossilray.load_train_config(None, ["method=simclr", "data.sources=[census]", "steps=1000"])
    """
    return _load(TrainConfig, path, assignments)


def load_curation_config(path: Path | None, assignments: Sequence[str] = ()) -> CurationConfig:
    """Load the configuration of a curation from a YAML file and assignments `field=value`.

    Raises:
        ConfigError: as load_config.
    """
    return _load(CurationConfig, path, assignments)


def document_config(kind: type[Section] = RunConfig) -> Iterator[tuple[str, Any, str]]:
    """Yield every field as (dotted name, default, description), sections before their fields.

    Defaults are those without a training method's recipe.
    """
    yield from _document(kind.model_construct(), prefix="")


def default_yaml() -> str:
    """Return the default configuration as YAML, with the description above each field."""
    return "\n".join(_yaml_lines(RunConfig(), indent="")) + "\n"


def _load(kind: type[Config], path: Path | str | None, assignments: Sequence[str]) -> Config:
    tree = _parse_yaml(kind, _read(Path(path)), str(path)) if path is not None else {}
    return _validated(kind, tree, assignments, None if path is None else str(path))


def _read(path: Path) -> str:
    try:
        return read_regular(path, most_bytes=_MOST_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}; check the path") from None


def _parse_yaml(kind: type[Section], text: str, name: str) -> dict[str, Any]:
    role = FileRole(name, "a configuration", f"{EXPLAINED_BY[kind]} shows what it may hold", ConfigError)
    tree = parse_yaml(text, role)
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{name} holds a {type(tree).__name__}, not sections; {EXPLAINED_BY[kind]} shows what it may hold"
        )
    return tree


def _validated(
    kind: type[Config], tree: dict[str, Any], assignments: Sequence[str], name: str | None
) -> Config:
    for assignment in assignments:
        _assign(tree, assignment)
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_first_fault(kind, error, name)) from None


def _assign(tree: dict[str, Any], assignment: str) -> None:
    name, equals, text = assignment.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"{assignment!r} is not of the form section.field=value or field=value")
    for key in keys[:-1]:
        below = tree.setdefault(key, {})
        if not isinstance(below, dict):
            raise ConfigError(f"{assignment!r}: {key} is a value, not a section")
        tree = below
    role = FileRole(f"{assignment!r:.200}", "one field of a configuration", "quote the value", ConfigError)
    tree[keys[-1]] = parse_yaml(text, role)


def _first_fault(kind: type[Section], error: ValidationError, source: str | None) -> str:
    fault = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in fault["loc"])
    where = f"{source}: " if source is not None else ""
    if fault["type"] == KEPT_BACK:
        return f"{where}{name} {fault['msg']}"
    if fault["type"] == "extra_forbidden":
        return f"{where}{name} is not a configuration field; {EXPLAINED_BY[kind]} lists them all"
    # What is wrong with fields together has no name, and names them itself.
    value = f"{name} = {fault['input']!r:.200}: " if name else ""
    why = fault["msg"].removeprefix("Value error, ")
    if fault["type"] in ("model_type", "model_attributes_type"):
        why = "this is a section, and its fields are expected, each with its value"
    return f"{where}{value}{why}; {EXPLAINED_BY[kind]} explains every field"


def _document(section: Section, *, prefix: str) -> Iterator[tuple[str, Any, str]]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        yield prefix + name, value, field.description or ""
        if isinstance(value, Section):
            yield from _document(value, prefix=f"{prefix}{name}.")


def _yaml_lines(section: Section, *, indent: str) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if not indent:
            yield ""
        yield f"{indent}# {field.description}"
        if isinstance(value, Section):
            yield f"{indent}{name}:"
            yield from _yaml_lines(value, indent=indent + "  ")
        else:
            plain = section.model_dump(mode="json")[name]
            yield f"{indent}{name}: {_inline_yaml(plain)}"


def _inline_yaml(plain: Any) -> str:
    text = yaml.safe_dump(plain, sort_keys=False, default_flow_style=True, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")
