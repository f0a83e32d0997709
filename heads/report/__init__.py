"""The pictures and the page of a head."""
