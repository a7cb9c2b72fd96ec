"""Compacted datasets: the objects of many slides in few files."""
