"""Embedding files: their formats, their writing and their reading."""
