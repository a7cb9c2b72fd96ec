"""Crops of detected objects: extraction, measures, the table of objects."""
