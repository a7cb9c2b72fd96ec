"""Detection of the objects of one slide: passes, foreground, windows, merging at seams."""
