"""What changes while a training goes on, as functions of the share of it that is done."""

from __future__ import annotations

import math

from fossilray.core.config.training import ScheduleConfig


def learning_rate(schedule: ScheduleConfig, *, progress: float, epoch: float) -> float:
    """The rate at a share (0..1) of the training, epoch whole epochs and a share of one into it.

    It rises evenly in the warm-up; inverse-time decay (as Keras has it) and step decay count epochs.
    """
    highest, warmup = schedule.learning_rate, schedule.warmup_share
    if progress < warmup:
        # Never 0: a run of minutes on a clock that has hardly moved would lose its first steps.
        return highest * max(progress / warmup, 0.01)
    if schedule.decay == "constant":
        return highest
    if schedule.decay == "inverse_time":
        return highest / (1 + schedule.inverse_time * epoch)
    if schedule.decay == "step":
        return float(highest * schedule.step_factor ** math.floor(epoch / schedule.step_epochs))
    along = (progress - warmup) / (1 - warmup)
    return cosine(highest, highest * schedule.last_share, along)


def weight_decay(schedule: ScheduleConfig, *, progress: float) -> float:
    """Weight decay at a share of the training."""
    last = schedule.last_weight_decay
    return schedule.weight_decay if last is None else cosine(schedule.weight_decay, last, progress)


def cosine(first: float, last: float, along: float) -> float:
    """From first to last along half a cosine; along in 0..1."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * min(max(along, 0.0), 1.0)))


def straight(first: float, last: float, along: float) -> float:
    """From first to last along a line; along in 0..1."""
    return first + (last - first) * min(max(along, 0.0), 1.0)
