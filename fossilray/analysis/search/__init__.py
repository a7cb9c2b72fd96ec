"""More like this: an index over the vectors of runs, and the objects that look most like a given one."""
