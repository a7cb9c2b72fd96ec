"""Identification of images: objects cut from a photograph, taxa with their shares, and the nearest specimens."""
