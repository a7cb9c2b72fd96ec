"""Estimates for an archive: hours, GPU-hours, cost and storage, each with its source."""
