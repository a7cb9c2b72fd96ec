"""The page of the public API, docs/reference/api.md, from the docstrings of `fossilray.__all__`."""

from __future__ import annotations

import inspect
import re
from types import ModuleType

from pydantic import BaseModel

import fossilray

_GROUPS = {
    "Runs": ("open_run", "query", "connect", "load_crops", "load_embeddings"),
    "Processing slides": ("process", "open_slide", "RunConfig", "load_config"),
    "Training and classifiers": (
        "open_crops",
        "CropStream",
        "train",
        "TrainConfig",
        "load_train_config",
        "load_head",
    ),
    "Comparing with known objects": ("score_against_truth", "match_boxes"),
    "Errors": ("errors",),
}
_SECTION = re.compile(r"^(Args|Returns|Raises|Example):$", re.MULTILINE)


def api_page() -> str:
    """Every public name with signature, arguments, result, errors and example."""
    documented = {name for names in _GROUPS.values() for name in names} | {"__version__"}
    if documented != set(fossilray.__all__):
        raise ValueError(f"_GROUPS differs from fossilray.__all__: {documented ^ set(fossilray.__all__)}")
    introduction = inspect.cleandoc(fossilray.__doc__ or "").partition("\n\n")[2]
    lines = ["# Python API", "", introduction, "", "`fossilray.__version__` is the version.", ""]
    for title, names in _GROUPS.items():
        lines += [f"## {title}", ""]
        for name in names:
            lines += _entry(name, getattr(fossilray, name))
    return "\n".join(lines).rstrip() + "\n"


def _entry(name: str, public: object) -> list[str]:
    summary, *sections = _SECTION.split(inspect.getdoc(public) or "")
    lines = [f"### `{name}`", ""]
    if isinstance(public, ModuleType):
        first, _, tree = summary.strip().partition("\n\n")
        lines += [f"`fossilray.{name}`: {first}", "", *_fenced(tree, "text")]
    else:
        lines += [*_fenced(_signature(name, public), "python"), _linked(summary.strip()), ""]
    for title, indented in zip(sections[::2], sections[1::2], strict=True):
        body = inspect.cleandoc("\n" + indented).strip("\n")
        match title:
            case "Example":
                code = re.sub(r"^(>>>|\.\.\.) ?", "", body, flags=re.MULTILINE)
                lines += ["Example:", "", *_fenced(code, "python")]
            case "Returns":
                lines += [f"**Returns:** {_linked(body)}", ""]
            case _:
                lines += [f"**{'Arguments' if title == 'Args' else title}:**", "", *_items(_linked(body)), ""]
    return lines


def _linked(text: str) -> str:
    """Paths of pages become links."""
    page = re.sub(r"\bdocs/(\w[\w/-]*\.md)", r"[docs/\1](../\1)", text)
    return re.sub(r"\bdocs/(reference/configuration)(?![\w/])", r"[docs/\1](../\1/index.md)", page)


def _signature(name: str, public: object) -> str:
    if isinstance(public, type) and issubclass(public, BaseModel):
        return f"fossilray.{name}(*, {', '.join(f'{field}=…' for field in public.model_fields)})"
    assert callable(public)
    signature = inspect.signature(public)
    if isinstance(public, type):
        signature = signature.replace(return_annotation=signature.empty)
    # Annotations are strings, since their evaluation is postponed; a default that is a function has no source.
    text = re.sub(r"<function .*? at 0x[0-9a-f]+>", "…", str(signature))
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)
    return f"fossilray.{name}{text}"


def _items(body: str) -> list[str]:
    """`name: what it is` as a list; a continued line is indented."""
    joined = re.sub(r"\n +", " ", body)
    return [re.sub(r"^([\w, ]+): ", r"- `\1`: ", line) for line in joined.splitlines()]


def _fenced(text: str, language: str) -> list[str]:
    return [f"```{language}", text, "```", ""]
