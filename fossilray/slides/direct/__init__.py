"""Direct reading of slide pixels without OpenSlide, on levels where the pixels were verified to be identical."""
