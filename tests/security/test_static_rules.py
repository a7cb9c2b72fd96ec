"""The source itself: no call that executes data, no secret in tracked files, engines without telemetry."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("fossilray", "pipelines", "benchmarks")

# Names as they are called, with what makes a call of them harmless.
FORBIDDEN = {
    "pickle.load": None,
    "pickle.loads": None,
    "pickle.Unpickler": None,
    "cloudpickle.load": None,
    "cloudpickle.loads": None,
    "dill.load": None,
    "dill.loads": None,
    "joblib.load": None,
    "marshal.loads": None,
    "shelve.open": None,
    "torch.load": None,
    "torch.jit.load": None,
    "ast.literal_eval": None,
    "faiss.read_index": None,
    "torch.package.PackageImporter": None,
    "torch.hub.load": None,
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "yaml.load": None,
    "yaml.unsafe_load": None,
    "yaml.full_load": None,
    "os.system": None,
    "os.popen": None,
    "tempfile.mktemp": None,
    "eval": None,
    "exec": None,
    "compile": None,
    "__import__": None,
}

SECRETS = {
    "an AWS key id": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "an AWS secret": r"(?i)aws_secret_access_key\s*[=:]\s*['\"]?[A-Za-z0-9/+]{40}\b",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{50,})",
    "a Slack token": r"\bxox[abprs]-[0-9A-Za-z-]{10,}",
    "a Google key": r"\bAIza[0-9A-Za-z_-]{35}\b",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "a PyPI token": r"\bpypi-[A-Za-z0-9_-]{50,}",
    "a password in a URL": r"\b[a-z][a-z0-9+.-]*://[^\s/:@'\"{}<>]+:[^\s/:@'\"{}<>]{3,}@",
    "a JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.",
}

# Examples, in tests that scrub them.
MADE_UP = re.compile(
    r"AKIAIOSFODNN7EXAMPLE|AKIAFOSSILRAYTEST777|:(?:open-|very-)?(?:sesame|secret|password|hidden)@"
)


def sources() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from sorted((ROOT / folder).rglob("*.py"))


def dotted(node: ast.expr) -> str:
    """`a.b.c` of such an expression; empty for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value)):
        return f"{owner}.{node.attr}"
    return ""


def dangers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of each call that may run what it is given."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        options = {word.arg: word.value for word in node.keywords}
        if name in FORBIDDEN:
            harmless = FORBIDDEN[name]
            value = options.get(harmless[0]) if harmless else None
            if harmless is None or not (isinstance(value, ast.Constant) and value.value is harmless[1]):
                yield node.lineno, name
        for option, value in (("shell", True), ("allow_pickle", True), ("weights_only", False)):
            given = options.get(option)
            if isinstance(given, ast.Constant) and given.value is value:
                yield node.lineno, f"{name}({option}={value})"


def test_nothing_unpickles_evaluates_or_starts_a_shell() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sources()
        for line, name in dangers(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "pickle.load(file)",
        "torch.load(path)",
        "torch.load(path, weights_only=True)",
        "ast.literal_eval(text)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "subprocess.run(command, shell=True)",
        "os.system(command)",
        "eval(text)",
    ],
)
def test_the_search_would_find_such_a_call(line: str) -> None:
    assert len(list(dangers(ast.parse(line)))) >= 1


def test_the_search_leaves_safe_calls_alone() -> None:
    safe = "np.load(p, allow_pickle=False); yaml.safe_load(t); model.eval()"
    assert not list(dangers(ast.parse(safe)))


def test_no_tracked_file_holds_a_secret() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = []
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if not name or not path.is_file() or path.name in ("id_rsa", ".env"):
            assert path.name not in ("id_rsa", ".env"), name
            continue
        content = path.read_bytes()
        if b"\0" in content[:8000]:  # a picture or weights
            continue
        text = MADE_UP.sub("", content.decode("utf-8", errors="ignore"))
        found += [f"{name}: {kind}" for kind, pattern in SECRETS.items() if re.search(pattern, text)]
    assert not found, "\n".join(found)


def test_the_search_for_secrets_would_find_them() -> None:
    samples = {
        "an AWS key id": "AKIA" + "Z" * 16,
        "an AWS secret": "aws_secret_access_key = " + "a" * 40,
        "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
        "a GitHub token": "ghp_" + "a" * 36,
        "a password in a URL": "s3://me:" + "hidden@bucket",
    }
    for kind, sample in samples.items():
        assert re.search(SECRETS[kind], sample), kind


READERS = {
    "safe_open": {"fossilray/models/files/tensors.py"},
    "zipfile.ZipFile": {
        "fossilray/analysis/export/darwin_core.py",
        "fossilray/core/formats/ods.py",
        "fossilray/core/formats/sheets.py",
        "fossilray/models/files/torch_file.py",
        "fossilray/models/detectors/load.py",
        "fossilray/models/detectors/torchscript_source.py",
    },
    "pickletools.genops": {"fossilray/models/files/stored_pickle.py"},
    "faiss.deserialize_index": {"fossilray/analysis/search/quantizer.py"},
    "onnxruntime.InferenceSession": {"fossilray/models/detectors/exported.py"},
    "timm.create_model": {
        "fossilray/models/backbones/architectures.py",
        "fossilray/models/backbones/load.py",
    },
    "tasks.parse_model": {"fossilray/models/detectors/ultralytics_network.py"},
}
"""Calls that read weights or build networks from them: behind the checks, in one module each."""


@pytest.mark.parametrize("name", READERS)
def test_each_reader_of_weights_has_one_home_behind_its_checks(name: str) -> None:
    homes = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "fossilray").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Attribute, ast.Name)) and dotted(node) == name
    }
    assert homes <= READERS[name]


def test_no_attribute_and_no_module_is_looked_up_by_a_name_that_a_file_gives() -> None:
    """Where weights are read, getattr and import take texts that stand in the source."""
    found = []
    for folder in ("detect", "embed", "formats", "learn/heads", "similar"):
        for path in (ROOT / "fossilray" / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                called = dotted(node.func) if isinstance(node, ast.Call) else ""
                if called.split(".")[-1] in (
                    "getattr",
                    "setattr",
                    "import_module",
                    "methodcaller",
                    "attrgetter",
                ):
                    assert isinstance(node, ast.Call)
                    name = node.args[0 if "import" in called else 1]
                    if not (isinstance(name, ast.Constant) and isinstance(name.value, str)):
                        found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    assert set(found) <= {one for one in found if any(known in one for known in KNOWN_LOOKUPS)}, found


KNOWN_LOOKUPS = (
    "setattr(parent, first,",  # layers of a network that was built, by the names that PyTorch gave them
    "setattr(parent, second,",
    "getattr(pair, side)",  # `one` and `other` of a record
)
