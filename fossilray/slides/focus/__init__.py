"""Focus planes of a slide: where they are stored, their pixels, sharpness, and extended focus."""
