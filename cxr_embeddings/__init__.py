"""Chest X-ray films in, embeddings out, and small heads trained on them."""
