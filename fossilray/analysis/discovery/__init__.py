"""Discovery: predictions to keep at a bounded error rate, and clusters of novel objects."""
