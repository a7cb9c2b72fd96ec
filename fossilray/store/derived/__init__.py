"""Derived results: embeddings and predictions that later jobs add to a run."""
