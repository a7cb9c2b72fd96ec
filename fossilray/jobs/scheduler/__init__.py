"""The scheduler: a driver that gives the items of a job to workers on Ray."""

from fossilray.jobs.scheduler.connection import ray_cluster
from fossilray.jobs.scheduler.driver import run_items
from fossilray.jobs.scheduler.resources import workers_that_fit

__all__ = ["ray_cluster", "run_items", "workers_that_fit"]
