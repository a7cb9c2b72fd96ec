"""Exported networks are programs; one that would do more than compute is refused before it runs."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from fossilray.core.errors import WeightsError
from fossilray.models.detectors.exported import load_torchscript


class Saves(torch.nn.Module):
    def __init__(self, target: Path) -> None:
        super().__init__()
        self.target = str(target)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > 0):
            torch.save(x, self.target)
        return x


class Maps(Saves):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_file(self.target, True, 1)


class RunsWhenLoaded(Saves):
    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.target, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.target = state[0]
        self.training = state[1]
        torch.save(self.training, self.target)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Computes(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) if bool(x.sum() > 0) else x * 2


def exported(module: torch.nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(str(path))
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Saves, r"does more than compute \(aten::save\); export"),
        (Maps, r"does more than compute \(aten::from_file\); export"),
        (RunsWhenLoaded, "runs code of its own when it is loaded"),
    ],
)
def test_a_torchscript_that_writes_files_is_refused_unrun(
    kind: type[Saves], message: str, tmp_path: Path
) -> None:
    target = tmp_path / "written"
    path = exported(kind(target), tmp_path / "evil.torchscript")
    target.unlink(missing_ok=True)
    with pytest.raises(WeightsError, match=message):
        load_torchscript(path, device="cpu")
    assert not target.exists()


def test_a_torchscript_that_only_computes_is_loaded(tmp_path: Path) -> None:
    path = exported(Computes(), tmp_path / "good.torchscript")
    assert load_torchscript(path, device="cpu").run(torch.ones(1, 3, 4, 4)).shape == (1, 3, 4, 4)
