"""Training of backbones, classifiers and the detector. Nothing here needs Ray."""
