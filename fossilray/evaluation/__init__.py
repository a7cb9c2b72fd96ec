"""Evaluation of backbones and heads on labelled crops by published protocols."""
