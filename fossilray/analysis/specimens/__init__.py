"""Specimens: objects that are cited, found again under a microscope and figured."""
