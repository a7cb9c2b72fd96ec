"""Plates: figures of chosen specimens on one page, with letters, scale bars and a caption."""
