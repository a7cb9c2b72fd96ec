"""Labels that people give to objects of runs, with annotator and date, and suggestions of what to label next."""
