"""The MIRAX format: Slidedat.ini, Index.dat, companion files."""
