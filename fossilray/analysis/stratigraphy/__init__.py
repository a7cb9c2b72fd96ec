"""Wells: what the calls of a classifier say about assemblages against depth."""
