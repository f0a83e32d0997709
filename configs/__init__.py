"""Values, typed by `schema`: every setting once, with its help."""
