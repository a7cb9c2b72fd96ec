"""Tables and streams of crops from runs, datasets and folders of images."""
