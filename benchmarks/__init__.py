"""What proves the numbers in docs/: run by hand, not installed."""
