"""Results of a finished run: exports, report, stratigraphy, search, discovery, explanations."""
