"""The training-free scorer: the priors of a frozen CLIP, weighed by what the supports show."""
