"""Fields of view: photographs through a microscope, which are read as slides of one image."""
