"""What the explorer page computes: labels, a map, a classifier, what to label next, a head to keep.

Nothing here knows of the web. The server calls these functions, some of them in a thread.
"""
