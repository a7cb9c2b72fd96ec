"""Selection and weighting of crops for training by clusters of similar crops."""
