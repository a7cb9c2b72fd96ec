"""What to label next, and labels that people gave to objects of runs, kept with who gave them and when."""
