"""Fixtures of the tests with faults."""

from support.fault_jobs import embedded_run, small_disk, some_slides, sound_run

__all__ = ["embedded_run", "small_disk", "some_slides", "sound_run"]
