"""Stratigraphy of wells: assemblages of predicted taxa against measured depth."""
