"""What the site adds to the pages of docs/: notebooks as pages, and the files of the repository that pages link to.

mkdocs calls the functions `on_…`. A link to a file outside docs/ would be broken on the site; such a file is added
under `repository/`, and with it every file that it links to in turn.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
REPOSITORY = "repository/"
ALWAYS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
"""Pages of the site even if no other page links to them."""
_LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replace each folder of the navigation by the pages in it, index first."""
    config.nav = _expand(config.nav, Path(config.docs_dir))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook, and what pages link to outside docs/."""
    docs = Path(config.docs_dir)
    sources = {f"docs/{file.src_uri}": _read(docs / file.src_uri) for file in files.documentation_pages()}
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            sources[f"docs/{file.src_uri}"] = text = _notebook_page(docs / file.src_uri)
            files.remove(file)
            files.append(File.generated(config, _site_path(f"docs/{file.src_uri}"), content=text))
    waiting = [*ALWAYS]
    for path, text in sources.items():
        waiting += _outside(path, text)
    added: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in added:
            continue
        added.add(path)
        if path.endswith(".md"):
            text = _read(ROOT / path)
            files.append(File.generated(config, _site_path(path), content=text))
            waiting += _outside(path, text)
        else:
            files.append(File.generated(config, _site_path(path), content=(ROOT / path).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where the site has the file; a link to a folder of the repository becomes its name."""
    here = _repository_path(page.file.src_uri)
    markdown = re.sub(r"^<!--.*?-->\n", "", markdown, flags=re.MULTILINE)

    def lead(link: re.Match[str]) -> str:
        target = _target(here, link[2])
        if target is None:
            return link[0]
        relative = posixpath.relpath(_site_path(target), posixpath.dirname(page.file.src_uri) or ".")
        return f"{link[1]}{relative}{link[3]}"

    without_folders = re.sub(
        r"\[([^]]+)\]\(([^)#\s]+)\)",
        lambda link: link[1] if _is_folder(here, link[2]) else link[0],
        markdown,
    )
    return _LINK.sub(lead, without_folders)


def _expand(entry: Any, docs: Path) -> Any:
    if isinstance(entry, dict):
        return {title: _expand(inside, docs) for title, inside in entry.items()}
    if isinstance(entry, list):
        expanded: list[Any] = []
        for inside in entry:
            if isinstance(inside, str) and inside.endswith("/"):
                pages = sorted(path.name for path in (docs / inside).glob("*.md"))
                pages.sort(key=lambda name: name != "index.md")
                expanded += [inside + name for name in pages]
            else:
                expanded.append(_expand(inside, docs))
        return expanded
    return entry.replace(".ipynb", ".md") if isinstance(entry, str) else entry


def _outside(path: str, text: str) -> list[str]:
    """Files outside docs/ that a page links to."""
    targets = [_target(path, link[1]) for link in _LINK.findall(text)]
    return [target for target in targets if target is not None and not target.startswith("docs/")]


def _target(page: str, link: str) -> str | None:
    """The file of the repository that a link leads to; None: a web address, or nothing that is there."""
    if re.match(r"[a-z]+:", link):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    return path if (ROOT / path).is_file() else None


def _is_folder(page: str, link: str) -> bool:
    return (ROOT / posixpath.dirname(page) / link).is_dir()


def _site_path(path: str) -> str:
    """Where the site has a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/").replace(".ipynb", ".md")
    return REPOSITORY + path


def _repository_path(site_path: str) -> str:
    """The reverse of `_site_path`; for the links of a page, a notebook's page stands where the notebook does."""
    if site_path.startswith(REPOSITORY):
        return site_path.removeprefix(REPOSITORY)
    return f"docs/{site_path}"


def _notebook_page(path: Path) -> str:
    """Cells and their printed results as Markdown."""
    parts = []
    for cell in json.loads(_read(path))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        language = "bash" if source.startswith("%%bash") else "python"
        parts.append(f"```{language}\n{source.removeprefix('%%bash').strip()}\n```")
        parts += [shown for output in cell["outputs"] if (shown := _notebook_output(output))]
    return "\n\n".join(parts) + "\n"


def _notebook_output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        return (
            f'<img alt="Output of the cell" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
        )
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""


def _read(path: str | os.PathLike[str]) -> str:
    return Path(path).read_text(encoding="utf-8")
