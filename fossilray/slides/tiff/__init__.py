"""The TIFF format: directories, JPEG tables, tile layout."""
