"""Training methods, one module each: views, loss, and updates after a step."""

from fossilray.training.methods.base import MethodLoss, TrainingMethod
from fossilray.training.methods.build import build_method

__all__ = ["MethodLoss", "TrainingMethod", "build_method"]
