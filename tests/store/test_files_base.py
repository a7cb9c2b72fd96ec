"""Paths and URLs of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from fossilray.store.config_file import read_config
from fossilray.store.files.base import is_remote, local_path


@pytest.mark.parametrize(
    "path", ["/data/run", "run", "C:/slides", "file:///data/run", "local:///data/run", ""]
)
def test_paths_and_file_urls_are_on_this_machine(path: str) -> None:
    assert not is_remote(path)


@pytest.mark.parametrize("url", ["s3://bucket/run", "gs://bucket", "abfs://c@account/run", "memory://run"])
def test_urls_of_other_protocols_are_in_an_object_store(url: str) -> None:
    assert is_remote(url)
    assert local_path(url) == url


def test_the_path_of_a_file_url_is_what_follows_its_protocol() -> None:
    assert local_path("file:///data/run") == "/data/run"
    assert local_path("run") == "run"


def test_a_configuration_is_read_from_a_file_url(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("detector:\n  confidence: 0.7\n")
    assert read_config(f"file://{tmp_path}/run.yaml").detector.confidence == 0.7
