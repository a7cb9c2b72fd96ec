"""Training methods, one module each: views, loss, and updates after a step."""

from fossilray.training.methods.base import MethodLoss, MethodModule
from fossilray.training.methods.build import build_method

__all__ = ["MethodLoss", "MethodModule", "build_method"]
