"""Training and evaluation of the detector on synthetic composites."""
