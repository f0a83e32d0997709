"""Command lines: parse flags, wire the packages together, run."""
