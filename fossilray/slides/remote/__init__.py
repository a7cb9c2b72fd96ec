"""Slides in an object store: listed, looked at by a few kB, brought to a local disk."""
