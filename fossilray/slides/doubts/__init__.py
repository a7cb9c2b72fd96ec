"""Checks of a slide before it is processed; each finding is a `Doubt`."""
