"""Ways to teach a backbone, each a module with its views, its loss and what happens after a step."""

from fossilray.training.methods.base import Method, MethodLoss
from fossilray.training.methods.build import build_method

__all__ = ["Method", "MethodLoss", "build_method"]
