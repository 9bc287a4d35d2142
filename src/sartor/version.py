"""The version of Sartor, as it is written into every file."""

from __future__ import annotations

from functools import cache
from importlib import metadata


@cache
def version() -> str:
    """Such as "0.1.0"; "unknown" where the package runs from its sources without being installed."""
    try:
        return metadata.version("sartor")
    except metadata.PackageNotFoundError:
        return "unknown"
