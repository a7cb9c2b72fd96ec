"""The driver of the slide job; the only home of Ray in it."""

from fossilray.scheduler.cluster import ray_cluster
from fossilray.scheduler.demand import workers_that_fit
from fossilray.scheduler.driver import run_slides

__all__ = ["ray_cluster", "run_slides", "workers_that_fit"]
