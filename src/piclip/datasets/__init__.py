"""Images with masks to learn from and to measure on."""
