"""Maintenance of a run: verification, garbage collection, and retries of failed slides."""
