"""Selection of the objects to label next."""
