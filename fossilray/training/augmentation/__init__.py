"""Random views of crops."""
