"""Slides in an object store: listing, metadata from a few kB, and staging on a local disk."""
