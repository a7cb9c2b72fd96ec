"""Two workers over gloo do what one with all crops would have done."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import torch
from training.test_methods_losses import LABEL, a_method, some_views

from fossilray.training.distributed import DistributedGroup


def test_two_workers_get_the_gradient_of_one_with_all_crops(tmp_path: Path) -> None:
    whole = a_method("simclr")
    loss = whole.loss(some_views(2), LABEL, progress=0.5).loss
    loss.backward()
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(rank, tmp_path)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    for rank in range(2):
        result = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(result["loss"], loss.detach())
        assert result["maxima"] == [1.0, 5.0]
        for name, parameter in whole.named_parameters():
            torch.testing.assert_close(result["gradients"][name], parameter.grad)


def _work(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2
    )
    group = DistributedGroup(rank, 2, torch.device("cpu"))
    method: Any = a_method("simclr")
    method.gather = group.gather
    half = slice(3 * rank, 3 * rank + 3)
    loss = method.loss([view[half] for view in some_views(2)], LABEL[half], progress=0.5).loss
    loss.backward()
    group.average_gradients(method.parameters())
    gradients = {name: p.grad for name, p in method.named_parameters()}
    maxima = group.all_max([float(rank), 5.0 - rank])
    torch.save({"loss": loss.detach(), "gradients": gradients, "maxima": maxima}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
