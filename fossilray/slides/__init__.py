"""Scanned slides: discovery, checks, staging and reading of pixels."""
