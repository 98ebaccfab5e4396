"""Training of decoders: recipes and loops."""
