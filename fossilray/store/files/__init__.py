"""Files of a run directory, on a disk or in an object store."""
