"""A film's file to network input: decoded, its grey values by a preset, resized."""
