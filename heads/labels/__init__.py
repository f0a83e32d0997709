"""Tables of labels to examples: read, joined by id, split by patient."""
