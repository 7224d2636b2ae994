"""The command line: parse, one library call, print and write. Nothing heavy is imported before a command runs."""

__all__ = ["main"]

from girsanov.cli.app import main
