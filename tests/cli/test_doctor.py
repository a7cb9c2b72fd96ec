"""The doctor on the installation that runs the tests."""

from __future__ import annotations

import builtins
import io

import pytest
from rich.console import Console

from fossilray.cli.doctor import examine, render_checks


def test_a_whole_installation_has_nothing_broken() -> None:
    findings = examine()
    assert not [finding for finding in findings if finding.status == "broken"]
    stream = io.StringIO()
    Console(file=stream, width=160).print(render_checks(findings))
    for subject in ("ray", "torch", "CUDA", "OpenSlide", "DuckDB", "detector weights", "scratch space"):
        assert subject in stream.getvalue()


def test_a_missing_library_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    really = builtins.__import__

    def without_cv2(name: str, *rest: object) -> object:
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")
        return really(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_cv2)
    (finding,) = [finding for finding in examine() if finding.subject == "OpenCV"]
    assert finding.status == "broken"
    assert "opencv-python-headless" in finding.detail
