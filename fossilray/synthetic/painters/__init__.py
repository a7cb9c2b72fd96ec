"""Painters of synthetic specimens, by kind."""
