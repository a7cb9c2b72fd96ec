"""Audits: random samples of a head's calls, drawn to measure how many of them are wrong."""
