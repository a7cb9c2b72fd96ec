"""Exported networks are programs; one that would do more than compute is refused before it runs."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from fossilray.core.errors import WeightsError
from fossilray.models.detectors.exported import load_torchscript


class Saves(torch.nn.Module):
    def __init__(self, place: Path) -> None:
        super().__init__()
        self.place = str(place)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > 0):
            torch.save(x, self.place)
        return x


class Maps(Saves):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_file(self.place, True, 1)


class RunsWhenLoaded(Saves):
    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.place, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.place = state[0]
        self.training = state[1]
        torch.save(self.training, self.place)

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
    ("kind", "told"),
    [
        (Saves, r"does more than compute \(aten::save\); export"),
        (Maps, r"does more than compute \(aten::from_file\); export"),
        (RunsWhenLoaded, "runs code of its own when it is loaded"),
    ],
)
def test_a_torchscript_that_writes_files_is_refused_unrun(
    kind: type[Saves], told: str, tmp_path: Path
) -> None:
    place = tmp_path / "written"
    path = exported(kind(place), tmp_path / "evil.torchscript")
    place.unlink(missing_ok=True)
    with pytest.raises(WeightsError, match=told):
        load_torchscript(path, device="cpu")
    assert not place.exists()


def test_a_torchscript_that_only_computes_is_loaded(tmp_path: Path) -> None:
    path = exported(Computes(), tmp_path / "good.torchscript")
    assert load_torchscript(path, device="cpu").run(torch.ones(1, 3, 4, 4)).shape == (1, 3, 4, 4)
