"""One criterion, one file."""
