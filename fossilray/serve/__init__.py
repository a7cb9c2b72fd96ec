"""The pages of `fossilray serve`: look at slides, sort and name crops in a browser, over the files of a run."""
