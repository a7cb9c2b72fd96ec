"""Readers of weight files that import and execute nothing."""
