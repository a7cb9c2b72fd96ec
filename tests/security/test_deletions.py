"""Every call in the source that deletes, with what makes it safe; a new one is argued for here and in security.md."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DELETING = frozenset(
    {
        "rmtree",
        "unlink",
        "rmdir",
        "remove",
        "removedirs",
        "delete",
        "rm",
        "rm_file",
        "rmdirs",
        "truncate",
        "ftruncate",
    }
    | {"delete_objects", "delete_object", "abort_multipart_upload", "TemporaryDirectory", "move"}
)

# By file, function and call: how often, and why no other file can be affected.
_A_LIST = "of a list in memory, no file"
_RANDOM = "a folder of a random name that tempfile made, closed to other users"
_OWN_NAME = "a random name that this very call has made"
_RUN = "goes through Files.delete, which follows no link; the name is one that only fossilray gives, in a run"
ALLOWED: dict[tuple[str, str, str], tuple[int, str]] = {
    ("store/maintenance/derived.py", "delete_outdated", "delete"): (1, f"{_RUN}; its footer was read"),
    ("store/maintenance/derived.py", "delete_older_than_objects", "delete"): (
        1,
        f"{_RUN}; its footer was read",
    ),
    ("store/maintenance/garbage.py", "collect_garbage", "delete"): (
        2,
        f"{_RUN}; of the requested age, and named by no commit",
    ),
    ("store/maintenance/retry.py", "withdraw_slides", "delete"): (
        2,
        f"{_RUN}; requested, and a copy was written before",
    ),
    ("store/maintenance/retry.py", "delete_damaged_derived", "delete"): (
        1,
        f"{_RUN}; requested by --withdraw",
    ),
    ("models/detectors/ultralytics_network.py", "quiet_ultralytics", "TemporaryDirectory"): (1, _RANDOM),
    ("slides/catalog/write.py", "_to_parquet", "remove"): (1, "of a field of a schema, no file"),
    ("analysis/explain/attention.py", "_recorded_attention", "remove"): (1, "of a hook, no file"),
    ("analysis/explain/gradcam.py", "feature_maps", "remove"): (1, "of a hook, no file"),
    ("analysis/explain/gradcam.py", "_guided", "remove"): (1, "of a hook, no file"),
    ("analysis/export/coco.py", "_Dataset.write_images", "remove"): (1, _A_LIST),
    ("training/checkpoint.py", "save_checkpoint", "unlink"): (
        1,
        "step-<8 digits>.pt in a training's folder",
    ),
    ("training/checkpoint.py", "remove_checkpoints", "unlink"): (
        1,
        "step-<8 digits>.pt in a training's folder",
    ),
    ("training/checkpoint.py", "remove_checkpoints", "rmdir"): (1, "of that folder, if it is empty"),
    ("training/output_folder.py", "TrainingFolder.open", "TemporaryDirectory"): (1, _RANDOM),
    ("training/output_folder.py", "TrainingFolder.upload", "delete"): (
        1,
        "step-<8 digits>.pt in a training's folder",
    ),
    ("core/marked_folders.py", "_create", "unlink"): (1, _OWN_NAME),
    ("core/marked_folders.py", "_create", "rmdir"): (1, f"{_OWN_NAME}; empty"),
    ("core/marked_folders.py", "_close", "rmdir"): (1, "this process's own marked folder, emptied"),
    ("core/marked_folders.py", "_remove_if", "rmdir"): (1, "a folder with a valid mark, emptied"),
    ("core/marked_folders.py", "_empty", "unlink"): (
        1,
        "the mark, through the descriptor by which it was read",
    ),
    ("core/marked_folders.py", "_remove", "rmtree"): (1, "in a marked folder, by descriptors"),
    ("core/marked_folders.py", "_remove", "unlink"): (1, "in a marked folder, by descriptors"),
    ("jobs/scheduler/worker_pool.py", "WorkerPool.submit", "remove"): (1, _A_LIST),
    ("jobs/scheduler/driver.py", "_Driver._handle_result", "remove"): (1, _A_LIST),
    ("analysis/search/index_store.py", "IndexStore.commit", "delete"): (
        2,
        "data/<16 hex> that this process has written, or the note of its maker in it",
    ),
    ("analysis/search/index_store.py", "IndexStore.collect_garbage", "delete"): (
        1,
        "data/<16 hex> of a maker that has ended or days old, maker.json in it, plans/shard-<24 hex>.json",
    ),
    ("slides/remote/download.py", "Download._clean", "remove"): (1, "in this process's own marked folder"),
    ("slides/remote/download.py", "_allocate", "ftruncate"): (1, "a file that was created just before"),
    ("slides/remote/scratch.py", "Scratch.remove", "remove"): (1, "in this process's own marked folder"),
    ("store/files/claims.py", "Claim._withdraw", "delete"): (1, _OWN_NAME),
    ("store/files/claims.py", "Claim._others", "delete"): (
        1,
        ".claims/<16 hex>.json of a process that has ended",
    ),
    ("store/dataset/destination.py", "DatasetDestination.tidy", "delete"): (
        2,
        "of the mark and the claims of compact alone",
    ),
    ("store/files/local_deletion.py", "delete_below", "rmtree"): (
        1,
        "Files.delete itself: by descriptors, no link followed",
    ),
    ("store/files/local_deletion.py", "delete_below", "unlink"): (
        1,
        "Files.delete itself: by descriptors, no link followed",
    ),
    ("store/files/local.py", "LocalFiles.clock", "unlink"): (1, _OWN_NAME),
    ("store/files/local.py", "LocalFiles.abort_uploads", "delete"): (
        1,
        ".tmp/<16 hex>, .probe/<16 hex>, of that age",
    ),
    ("store/files/local.py", "LocalFiles._spare_file", "unlink"): (1, _OWN_NAME),
    ("store/files/local.py", "LocalFiles._delete_abandoned_probes", "delete"): (
        1,
        ".probe/<16 hex> whose note names a process that has ended",
    ),
    ("store/files/local.py", "LocalFiles.tidy_folder", "rmdir"): (1, "of empty folders"),
    ("store/files/conditional_create.py", "check_conditional_create", "delete"): (1, _OWN_NAME),
    ("store/files/remote.py", "RemoteFiles.delete", "rm"): (
        1,
        "Files.delete itself; object stores know no links",
    ),
    ("store/files/remote.py", "RemoteFiles.clock", "delete"): (1, _OWN_NAME),
    ("store/files/remote.py", "RemoteFiles.abort_uploads", "delete"): (1, ".probe/<16 hex>, of that age"),
    ("store/run/run_store.py", "RunStore.commit_submitted", "delete"): (1, f"{_RUN}; committed just before"),
    ("store/run/run_store.py", "RunStore.delete_attempt", "delete"): (
        2,
        f"{_RUN}; of the attempt's own random id",
    ),
    ("store/files/subfolder.py", "Subfolder.delete", "delete"): (1, "hands on to Files.delete"),
    ("store/run/summaries.py", "rebuild_summaries", "delete"): (1, f"{_RUN}; rewritten before"),
    ("store/run/summaries.py", "drop_summaries", "delete"): (1, f"{_RUN}; written again before"),
    ("store/dataset/unfinished_dataset.py", "remove_unfinished", "delete"): (
        1,
        "all names there were checked, and its mark",
    ),
    ("store/dataset/unfinished_dataset.py", "remove_spares", "delete"): (1, "all names there were checked"),
    ("jobs/submission/client.py", "JobClient.submit", "TemporaryDirectory"): (1, _RANDOM),
    ("synthetic/archive.py", "synthesise_archive", "unlink"): (
        2,
        "truth and mark of an archive of fossilray's",
    ),
    ("synthetic/writers/mirax.py", "write_mirax", "unlink"): (
        2,
        "a painted slide of that name; the archive refuses others",
    ),
    ("jobs/train.py", "_run", "delete"): (1, ".ray-<16 hex> that this call has named"),
    ("core/atomic_files.py", "atomic_file", "unlink"): (1, _OWN_NAME),
    ("core/atomic_files.py", "atomic_folder", "rmtree"): (1, _OWN_NAME),
    ("serve/act_journal.py", "ActJournal.append", "truncate"): (
        1,
        "lines of a journal of its own that the disk refused in part, and that were not acknowledged",
    ),
    ("core/atomic_files.py", "_Output.truncate", "ftruncate"): (1, "a part, open for writing"),
    ("core/atomic_files.py", "_delete_unheld", "rmtree"): (
        1,
        "a part of this user, not a link, its lock free",
    ),
    ("core/atomic_files.py", "_delete_unheld", "unlink"): (
        1,
        "a part of this user, not a link, its lock free",
    ),
}


def deletions(node: ast.AST, scope: str = "") -> Iterator[tuple[str, str]]:
    """Function and name of each call that may delete."""
    for child in ast.iter_child_nodes(node):
        inside = scope
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inside = f"{scope}.{child.name}".lstrip(".")
        if isinstance(child, ast.Call):
            name = getattr(child.func, "attr", getattr(child.func, "id", ""))
            if name in DELETING:
                yield scope, name
        yield from deletions(child, inside)


def found() -> Counter[tuple[str, str, str]]:
    package = ROOT / "fossilray"
    return Counter(
        (path.relative_to(package).as_posix(), *call)
        for path in sorted(package.rglob("*.py"))
        for call in deletions(ast.parse(path.read_text(encoding="utf-8")))
    )


def test_every_call_that_deletes_is_argued_for() -> None:
    assert found() == {call: times for call, (times, _) in ALLOWED.items()}


@pytest.mark.parametrize(
    "line",
    [
        "shutil.rmtree(a)",
        "path.unlink()",
        "os.remove(a)",
        "files.delete(a)",
        "with TemporaryDirectory() as a: pass",
    ],
)
def test_the_search_would_find_such_a_call(line: str) -> None:
    assert list(deletions(ast.parse(line)))
