"""Crops and embeddings of slides in Zarr."""
