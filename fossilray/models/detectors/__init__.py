"""Detectors of objects in tiles; `load.load_detector` loads one."""
