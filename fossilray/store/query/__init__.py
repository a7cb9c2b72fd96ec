"""SQL over a run or a dataset, and its vectors."""
