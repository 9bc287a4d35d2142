"""The command line: parse, call, print."""

from sartor.cli.app import main, run

__all__ = ["main", "run"]
