"""Objects written for other programs: boxes, tiles, image folders, vectors."""
