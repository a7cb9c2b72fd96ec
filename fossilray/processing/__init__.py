"""One slide from scan to committed rows, and estimates of what that costs; no Ray."""
