"""benchmarks/gpu.py on a machine without a GPU: all of it runs, on sizes that mean nothing."""

from __future__ import annotations

import gpu
import pytest
import torch
import typer


def test_every_part_of_it_runs_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(device="cpu", small=True)
    shown = capsys.readouterr().out
    for part in (
        "matrix product",
        "input on the device",
        "of the peak",
        "bundled embedder",
        "detector, batch",
    ):
        assert part in shown
    assert shown.count("slides/h") == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_and_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as exited:
        gpu.main()
    assert exited.value.exit_code == 2
    assert "no GPU" in capsys.readouterr().out


def test_operations_of_the_network_are_those_its_authors_count() -> None:
    # 4.6e9 multiplications with additions (Touvron et al. 2021, table 5).
    assert gpu.vit_flop() / 2 == pytest.approx(4.6e9, rel=0.05)


def test_time_in_which_kernels_overlap_is_counted_once() -> None:
    assert gpu.busy([(5.0, 9.0), (0.0, 2.0), (1.0, 3.0), (6.0, 7.0)]) == 7.0
