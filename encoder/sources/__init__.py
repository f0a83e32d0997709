"""Readers of published checkpoints, one file a format; encoder/convert.py has their table."""
