"""Pixels of slides without OpenSlide, where they are proven to be the same."""
