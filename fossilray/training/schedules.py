"""Schedules of learning rate and weight decay, as functions of a training's progress."""

from __future__ import annotations

import math

from fossilray.core.config.training import ScheduleConfig


def learning_rate(schedule: ScheduleConfig, *, progress: float, epoch: float) -> float:
    """Return the learning rate at a progress of 0 to 1.

    The rate rises linearly in the warm-up. Inverse-time decay (as in Keras) and step decay depend on `epoch`, which
    may be fractional.
    """
    highest, warmup = schedule.learning_rate, schedule.warmup_share
    if progress < warmup:
        # Never 0: a training limited by time has hardly any progress in its first steps, and would lose them.
        return highest * max(progress / warmup, 0.01)
    if schedule.decay == "constant":
        return highest
    if schedule.decay == "inverse_time":
        return highest / (1 + schedule.inverse_time * epoch)
    if schedule.decay == "step":
        return float(highest * schedule.step_factor ** math.floor(epoch / schedule.step_epochs))
    position = (progress - warmup) / (1 - warmup)
    return cosine(highest, highest * schedule.last_share, position)


def weight_decay(schedule: ScheduleConfig, *, progress: float) -> float:
    """Return the weight decay at a progress of 0 to 1."""
    last = schedule.last_weight_decay
    return schedule.weight_decay if last is None else cosine(schedule.weight_decay, last, progress)


def cosine(first: float, last: float, position: float) -> float:
    """Interpolate from `first` to `last` along half a cosine; `position` is clamped to 0..1."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * min(max(position, 0.0), 1.0)))


def linear(first: float, last: float, position: float) -> float:
    """Interpolate from `first` to `last` linearly; `position` is clamped to 0..1."""
    return first + (last - first) * min(max(position, 0.0), 1.0)
