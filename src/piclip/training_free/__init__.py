"""The training-free scorer: supports and queries compared by a frozen ViT, names read by a CLIP."""
