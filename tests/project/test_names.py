"""Names and words: one public name in one module, one file of a readable size, and the field's words."""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from support.static_checks import modules

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fossilray"
MOST_LINES = 400
MOST_FUNCTION_LINES = 80
WORDS = (
    "answers?|answerer|asks?|asking|teach|teaches|teaching|taught|judges?|judged|judging|told|tells|nobody|somebody|"
    "anybody|whoever|anew|befell|lest|upon|shall|lots|lottery|crew|hire|hiring|dismiss|dismissed|departures|verdicts?|"
    "ledger|clerk|blame|outwait|habits|rims|lends?|lent|forgives?|leftovers|swept|sweeping|places?|settles?|settled|seats?|"
    "asked|answered|answering|say|says|said|saying|certain|certainty|doubted|doubtless|facts|silent"
)
PHRASES = (
    "look.?alike(?:s)?|how sure|like no label|none of the kind|went on|goes on with|in hand|at hand|head doubts|"
    "to the bit|sign of life|speaks for|by lot|standing labels|given labels|who never saw|no doubt|beyond doubt"
)
"""Words of the project's early years that the field has a term for (CONTRIBUTING.md, "Words")."""
KEPT = (
    # On disk, in results and in metrics.
    r"answers\.json|taught_on|\"settles\"|`settles` in the file|\bforgiven|\.place\b|\bplace: str|place=None|place AS",
    r"footer\.answers|answers: str|answers=|\"asking\"",
    r"is_certain|slides_asked|\"asked\"|\"certainty[\".]|the field certainty",
    r"least.certain|LeastCertain|certain occurrence",
    # Ordinary uses of a word.
    r"in (its |their )?place\b|takes? place|decimal places?|place_objects|Place `count`|registered in handles",
    r"an answer to the 3-billion|certain rules",
)
_KEPT = re.compile("|".join(KEPT))
_NOT_NOUNS = frozenset(("one", "found", "told", "said", "asked", "own", "beside", "there", "of"))
"""Names that do not say what a variable holds."""
_CODE = ("fossilray", "fossilray_jpeg", "benchmarks", "cluster", "deploy", "pipelines")
_WORD = re.compile(rf"\b(?:{WORDS})\b|\b(?:{PHRASES})\b", re.IGNORECASE)


def public_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        else:
            continue
        yield from (name for name in names if not name.startswith("_"))


def test_no_public_name_is_defined_in_two_modules() -> None:
    homes = defaultdict(list)
    for path in modules():
        for name in public_names(ast.parse(path.read_text(encoding="utf-8"))):
            homes[name].append(str(path.relative_to(PACKAGE)))
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


def test_files_and_functions_have_a_readable_size() -> None:
    too_long = []
    scripts = [path for name in (*_CODE[1:], "docs") for path in sorted((ROOT / name).rglob("*.py"))]
    for path in [*modules(), *scripts]:
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > MOST_LINES:
            too_long.append(f"{path}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                and (node.end_lineno or 0) - node.lineno >= MOST_FUNCTION_LINES
            ):
                too_long.append(f"{path}: {node.name}")
    assert not too_long


def test_every_module_says_what_it_is_in_a_noun_phrase_or_a_verb() -> None:
    odd = []
    for path in modules():
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        if not text or re.match(r"(What|Which|How|Where|Whether)\b", text):
            odd.append(str(path.relative_to(PACKAGE)))
    assert not odd


def banned_word(line: str) -> str | None:
    """Return the first banned word; an identifier is as many words as it has parts."""
    spread = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", _KEPT.sub(" ", line)).replace("_", " ")
    match = _WORD.search(_KEPT.sub(" ", spread))
    return match and match[0]


def test_code_help_and_docs_use_the_words_of_the_field() -> None:
    suffixes = {".py", ".j2", ".js", ".css", ".sh", ".yaml", ".yml", ".toml", ".md", ".ipynb"}
    code = [path for name in (*_CODE, "docs") for path in (ROOT / name).rglob("*") if path.suffix in suffixes]
    others = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "mkdocs.yml", "deploy/Dockerfile", ".ci/run")
    odd = []
    for path in [*code, *(ROOT / name for name in others)]:
        if path.parent.name == "vendor":
            continue
        for number, line in enumerate(text_of(path).splitlines(), 1):
            if word := banned_word(line):
                odd.append(f"{path.relative_to(ROOT)}:{number}: {word}")
    assert not odd


def text_of(path: Path) -> str:
    """A file's text; of a notebook the cells without their outputs, such as pictures."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])


def test_helpers_of_tests_use_the_words_of_the_field() -> None:
    odd = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_helper = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("test_")
            if is_helper and (word := banned_word(node.name)):
                odd.append(f"{path.relative_to(ROOT)}:{node.lineno}: {word}")
    assert not odd


def test_variables_are_nouns_that_describe_their_values() -> None:
    odd = []
    for path in modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        # A field of a record is an attribute: `score.found` has a subject.
        fields = {node.target for kind in classes for node in kind.body if isinstance(node, ast.AnnAssign)}
        for node in ast.walk(tree):
            if isinstance(node, ast.arg):
                name = node.arg
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node not in fields:
                name = node.id
            else:
                continue
            if name in _NOT_NOUNS:
                odd.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
    assert not odd
