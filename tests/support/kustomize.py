"""An overlay of deploy/kubernetes as `kubectl kustomize` would print it, where no kubectl is installed.

Of Kustomize only what our files use, and whatever else they said would be refused here: resources, components,
namespace, images, configMapGenerator, JSON6902 patches, `$patch: delete`, and replacements of whole fields.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonpatch
import yaml

Tree = dict[str, Any]

KNOWN = {
    "apiVersion", "kind", "resources", "components", "namespace", "images", "configMapGenerator", "generatorOptions",
    "patches", "replacements",
}  # fmt: skip


def rendered(folder: Path) -> list[Tree]:
    """The manifests of a kustomization, fresh copies that a test may spoil."""
    return copy.deepcopy(_accumulated(folder, []))


def _accumulated(folder: Path, before: list[Tree]) -> list[Tree]:
    """What is there after this kustomization; a component works on what came before it."""
    file = folder / "kustomization.yaml"
    kustomization = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert set(kustomization) <= KNOWN, f"{file}: {set(kustomization) - KNOWN} are beyond this renderer"
    trees = list(before)
    for name in kustomization.get("resources", []):
        path = folder / name
        trees += _accumulated(path, []) if path.is_dir() else _documents(path)
    for name in kustomization.get("components", []):
        trees = _accumulated(folder / name, trees)
    for generator in kustomization.get("configMapGenerator", []):
        assert kustomization["generatorOptions"] == {"disableNameSuffixHash": True}
        data = {name: (folder / name).read_text(encoding="utf-8") for name in generator["files"]}
        trees.append(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}
        )
    for patch in kustomization.get("patches", []):
        trees = _patched(trees, patch, folder)
    for tree in trees:
        if "namespace" in kustomization and tree["kind"] != "Namespace":
            tree["metadata"]["namespace"] = kustomization["namespace"]
        for image in kustomization.get("images", []):
            _set_images(tree, image)
    for replacement in kustomization.get("replacements", []):
        _replace(trees, replacement)
    return trees


def _documents(path: Path) -> Iterator[Tree]:
    for tree in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        # What YAML's aliases share must not be patched in all places at once.
        yield json.loads(json.dumps(tree))


def _patched(trees: list[Tree], patch: Tree, folder: Path) -> list[Tree]:
    text = patch.get("patch") or (folder / patch["path"]).read_text(encoding="utf-8")
    operations = yaml.safe_load(text)
    chosen = [tree for tree in trees if _selected(tree, patch["target"])]
    assert chosen, f"{folder.name}: a patch has no target {patch['target']}"
    if isinstance(operations, dict):
        assert operations.pop("$patch") == "delete"
        return [tree for tree in trees if tree not in chosen]
    # Kustomize makes the folder of a key that is added, jsonpatch does not need to here: all of ours exist.
    return [jsonpatch.apply_patch(tree, operations) if tree in chosen else tree for tree in trees]


def _selected(tree: Tree, target: Tree) -> bool:
    return tree["kind"] == target["kind"] and target.get("name") in (None, tree["metadata"]["name"])


def _set_images(tree: Any, image: Tree) -> None:
    """Rename and tag the image wherever containers are, as Kustomize does in kinds that it does not know."""
    if isinstance(tree, list):
        for part in tree:
            _set_images(part, image)
    elif isinstance(tree, dict):
        for container in tree.get("containers", []):
            name, _, tag = container["image"].rpartition(":")
            if name == image["name"]:
                container["image"] = f"{image.get('newName', name)}:{image.get('newTag', tag)}"
        for part in tree.values():
            _set_images(part, image)


def _replace(trees: list[Tree], replacement: Tree) -> None:
    [source] = [tree for tree in trees if _selected(tree, replacement["source"])]
    value = source
    for key in replacement["source"]["fieldPath"].split("."):
        value = value[int(key) if isinstance(value, list) else key]
    for target in replacement["targets"]:
        [tree] = [tree for tree in trees if _selected(tree, target["select"])]
        for path in target["fieldPaths"]:
            *folders, last = path.split(".")
            place: Any = tree
            for key in folders:
                place = place[int(key) if isinstance(place, list) else key]
            assert last in place or target.get("options", {}).get("create")
            place[last] = copy.deepcopy(value)
