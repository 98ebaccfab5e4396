"""The frozen CLIP: loading, one-pass image encoding, prompts."""
