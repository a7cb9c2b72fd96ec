"""Similarity search: an index over the embeddings of runs, and the nearest objects to a query."""
