"""Explanations of a head's predictions: Grad-CAM and attention maps of crops, and sheets of them."""
