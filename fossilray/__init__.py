"""fossilray: from scanned palynology slides to a census of microfossils."""

__version__ = "0.1.0"
