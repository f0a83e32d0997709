"""Small classification heads on embeddings; joined to the rest only through embedding files."""
