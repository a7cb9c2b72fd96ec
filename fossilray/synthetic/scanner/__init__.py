"""The scanner of synthetic slides: optics, camera, backdrop."""
