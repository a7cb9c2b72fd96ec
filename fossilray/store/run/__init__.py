"""The run directory: layout, commit, attempts, summaries."""
