"""Procedural palynology: painted palynomorphs, debris and the optics of a slide scanner."""
