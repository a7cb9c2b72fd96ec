"""Scanner of synthetic slides: optics, camera and backdrop."""
