"""The training-free priors as pure tensor functions."""
