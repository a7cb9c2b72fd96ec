"""How sure a classifier may be of an object, and what is like none of its labels."""
