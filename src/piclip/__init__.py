"""Few-shot segmentation with training-free CLIP priors (PI-CLIP, arXiv 2405.08458)."""

from __future__ import annotations

__version__ = "0.1.0"
