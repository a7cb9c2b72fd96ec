"""The documentation says what the program does, and the program does what it says."""

from __future__ import annotations

import builtins
import importlib.util
import itertools
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from project.test_floors import ENGINES, MAY_IMPORT
from support.cli_runner import invoke

import fossilray
from fossilray import __version__
from fossilray.core.config import (
    CurationConfig,
    RunConfig,
    TrainConfig,
    document_config,
    load_config,
    load_curation_config,
    load_train_config,
)
from fossilray.core.config.loading import EXPLAINED_BY
from fossilray.core.doubt_codes import DOUBT_CODES
from fossilray.core.errors import ConfigError

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
GENERATED = (REFERENCE / "commands", REFERENCE / "configuration")
PROSE = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.parent not in GENERATED),
]


def load_tool(name: str) -> ModuleType:
    """A script of docs/tools as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def reference() -> ModuleType:
    return load_tool("make_reference")


def test_reference_pages_are_those_the_program_gives() -> None:
    for name, text in reference().reference_pages().items():
        page = ROOT / "docs" / name
        assert page.is_file(), f"{name} is missing; run `python docs/tools/make_reference.py`"
        assert page.read_text(encoding="utf-8") == text, (
            f"{name} lags; run `python docs/tools/make_reference.py`"
        )


def test_every_command_and_every_field_has_its_place_in_the_docs() -> None:
    pages = {path.stem for path in (REFERENCE / "commands").glob("*.md")} - {"index"}
    assert pages == {name.replace(" ", "-") for name, _ in reference().commands_by_name()}
    sections = [REFERENCE / "configuration" / f"{name}.md" for name in RunConfig.model_fields]
    pages_of = {RunConfig: sections} | {
        kind: [ROOT / EXPLAINED_BY[kind]] for kind in (TrainConfig, CurationConfig)
    }
    for kind, paths in pages_of.items():
        text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
        for name, _, description in document_config(kind):
            assert description
            assert f"# `{name}`" in text


def test_every_public_name_has_its_place_in_the_docs() -> None:
    page = (REFERENCE / "api.md").read_text(encoding="utf-8")
    for name in fossilray.__all__:
        assert f"`{name}`" in page or f"`fossilray.{name}`" in page


def test_every_command_answers_help() -> None:
    for name, _ in reference().commands_by_name():
        assert invoke(*name.split(), "--help").exit_code == 0


@pytest.mark.parametrize("page", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_prose_name_real_options(page: Path) -> None:
    known = {
        name: reference()._command_page(name, function) for name, function in reference().commands_by_name()
    }
    for line in fossilray_lines(page):
        words = shlex.split(line, comments=True)
        name = words[1] if words[1] in known else " ".join(words[1:3])
        groups = [group for group in reference().COMMANDS.values() if words[1] in group]
        default = getattr(groups[0][words[1]], "default", None) if groups else None
        if name not in known and default is not None:
            name = f"{words[1]} {default}"
        assert name in known, f"{page.name}: `{line}`: no such command"
        for word in words[2:]:
            if word in {"|", "&&", ";"}:
                break
            if word.startswith("--"):
                assert f"`{word.split('=')[0]}" in known[name], f"{page.name}: `{line}`: {name} has no {word}"


@pytest.mark.parametrize("page", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_settings_in_prose_are_fields(page: Path) -> None:
    for line in fossilray_lines(page):
        words = shlex.split(line, comments=True)
        # What a field may be depends on the method.
        method = [f"method={words[words.index('--method') + 1]}"] if "--method" in words else []
        for before, word in itertools.pairwise(words):
            if before == "--set":
                load_config(None, [word])
            elif before == "--train-set":
                load_train_config(None, [*method, word])
            elif before == "--rule":
                load_curation_config(None, [word])


@pytest.mark.parametrize("page", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_default_yaml_is_the_default() -> None:
    answer = invoke("config")
    assert answer.exit_code == 0
    assert RunConfig.model_validate(yaml.safe_load(answer.stdout)) == RunConfig()


@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        ("detector.confidance=0.3", "detector.confidance is not a configuration field"),
        ("detector.confidence=3", "less than or equal to 1"),
        ("detector", "is not of the form section.field=value or field=value"),
        ("detector.passes=[{um_per_px: 4, largest_um: 9}, {um_per_px: 1, largest_um: 9}]", "fine to coarse"),
    ],
)
def test_a_wrong_setting_is_one_sentence_with_the_remedy(assignment: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)) as caught:
        load_config(None, [assignment])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("load", "assignment", "reason"),
    [
        (
            load_train_config,
            "views.knd=paper",
            "not a configuration field; docs/reference/configuration/training.md lists",
        ),
        (load_train_config, "steps=[", "it is not YAML"),
        (
            load_train_config,
            "views.early_share=2",
            "docs/reference/configuration/training.md explains every field",
        ),
        (
            load_curation_config,
            "cluster=2",
            "not a configuration field; docs/reference/configuration/curation.md lists",
        ),
    ],
)
def test_a_wrong_setting_of_a_training_or_curation_leads_to_its_own_page(
    load: Callable[..., object], assignment: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        load(None, [assignment])


def test_settings_that_do_not_go_together_are_named_and_not_printed_whole() -> None:
    with pytest.raises(ConfigError, match=r"^give one of epochs, steps and minutes; docs/"):
        load_train_config(None, ["epochs=1", "steps=1"])


def test_a_configuration_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("detector: [")
    with pytest.raises(ConfigError, match=r"run\.yaml .*it is not YAML"):
        load_config(path)
    path.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="not sections"):
        load_config(path)
    with pytest.raises(ConfigError, match="check the path"):
        load_config(tmp_path / "absent.yaml")


def fossilray_lines(page: Path) -> list[str]:
    """Lines of shell blocks that call fossilray."""
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [
        line[line.index("fossilray ") :] for line in lines if re.match(r"(\S*/)?fossilray ", line.strip())
    ]


def test_diagrams_are_those_the_script_draws() -> None:
    for name, text in load_tool("draw_diagrams").diagrams().items():
        assert (ROOT / "docs" / "pictures" / name).read_text(encoding="utf-8") == text, (
            f"{name} lags; run `python docs/tools/draw_diagrams.py`"
        )


def test_the_table_of_rooms_is_that_of_the_imports() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", text, re.MULTILINE)
    assert {room: re.findall(r"`([\w/]+)`", allowed) for room, allowed in rows if room != "cli"} == {
        room: allowed.split() for room, allowed in MAY_IMPORT.items() if room != "cli"
    }


def test_the_table_of_engines_is_that_of_the_imports() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.partition("\n## Where engines live\n")[2].partition("\n## ")[0]
    rows = {
        name.lower().replace("-", "_"): re.findall(r"`([\w/]+)(?:\.py)?`", homes)
        for names, homes in re.findall(r"^\| ([A-Za-z][\w, -]+) \| (`.*) \|$", section, re.MULTILINE)
        for name in names.split(", ")
    }
    assert rows.keys() == ENGINES.keys()
    for engine, homes in rows.items():
        for home in homes:
            assert any(f"{path}/".startswith(f"{home}/") for path in ENGINES[engine]), f"{engine}: {home}"


@pytest.mark.parametrize(
    "page", [ROOT / "docs" / "architecture.md", ROOT / "CONTRIBUTING.md"], ids=lambda path: path.stem
)
def test_paths_that_the_pages_for_contributors_name_exist(page: Path) -> None:
    paths = re.findall(r"`((?:[a-z_]+/)+[a-z_]*(?:\.py)?)`", page.read_text(encoding="utf-8"))
    assert len(paths) > 15
    tops = {*MAY_IMPORT, "fossilray", "tests", "benchmarks", "docs"}
    for path in (path for path in paths if path.partition("/")[0] in tops):
        # The table of imports names a file without its suffix.
        spellings = [folder / name for folder in (ROOT, ROOT / "fossilray") for name in (path, f"{path}.py")]
        assert any(spelling.exists() for spelling in spellings), f"{page.name} names {path}"


def test_names_in_the_recipes_for_contributors_are_defined_where_they_say() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for name, path in re.findall(r"`(\w+)`\s+(?:of|in)\s+`(fossilray/[\w/]+\.py)`", text):
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text(encoding="utf-8")), f"{path} lacks {name}"


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()
    assert citation["version"] == __version__
    assert citation["preferred-citation"]["year"] == 2024


def test_the_page_of_faults_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "cluster" / "faults.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`(\w+/test_\w+)`", page))
    assert len(names) > 15
    for name in names:
        assert (ROOT / "tests" / f"{name}.py").is_file(), f"docs/cluster/faults.md names {name}"


def test_error_classes_in_the_pages_for_operators_exist() -> None:
    for name in ("guide/maintenance.md", "cluster/faults.md"):
        page = (ROOT / "docs" / name).read_text(encoding="utf-8")
        classes = set(re.findall(r"`((?:[A-Z][a-z]+){2,})`", page)) | set(re.findall(r"--error (\w+)", page))
        assert classes
        for error in classes:
            assert hasattr(fossilray.errors, error) or hasattr(builtins, error) or error == "WorkerDied", (
                error
            )


def test_scripts_that_pages_name_exist() -> None:
    for page in PROSE:
        text = page.read_text(encoding="utf-8")
        for script in re.findall(
            r"(?<![\w/])((?:benchmarks|pipelines|cluster|deploy)/[\w/]+\.(?:py|sh))", text
        ):
            assert (ROOT / script).is_file(), f"{page.relative_to(ROOT)} names {script}"


def test_every_code_of_a_doubt_is_in_the_guide_with_its_meaning() -> None:
    guide = (ROOT / "docs" / "guide" / "checks.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \|", guide, re.MULTILINE))
    assert rows == DOUBT_CODES
