"""What a head can do, with intervals."""
