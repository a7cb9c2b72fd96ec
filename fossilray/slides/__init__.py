"""Scanned slides: found, checked, fetched, opened, read."""
