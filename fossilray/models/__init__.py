"""Networks and classifiers with their weight files: detectors, backbones, heads."""
