"""Training of the built-in CLIP."""
