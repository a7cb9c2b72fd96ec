"""Human counts of a well's samples beside the counts of its chart."""
