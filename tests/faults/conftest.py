"""Fixtures of the tests with faults."""

from support.fault_jobs import small_disk, some_slides, sound_run

__all__ = ["small_disk", "some_slides", "sound_run"]
