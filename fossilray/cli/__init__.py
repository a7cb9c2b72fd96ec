"""The command line."""

from fossilray.cli.main import app, main

__all__ = ["app", "main"]
