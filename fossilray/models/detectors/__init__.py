"""Detectors: what finds objects in a tile. Start at `loading.load_detector`."""
