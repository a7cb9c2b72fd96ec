"""Training and judging backbones; nothing here needs Ray."""
