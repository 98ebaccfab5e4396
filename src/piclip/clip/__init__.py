"""The frozen models, CLIP and other ViTs: loading, one-pass image encoding, prompts."""
