"""Writers of synthetic slides: MIRAX and pyramidal TIFF."""
