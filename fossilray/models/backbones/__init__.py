"""Backbones that describe crops by vectors: the bundled one, timm's, and files of other projects."""
