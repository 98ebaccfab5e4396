"""The training-free priors as pure tensor functions."""

from __future__ import annotations

from piclip.priors.contrast import contrast_prior
from piclip.priors.maps import min_max
from piclip.priors.refinement import box_mask, refine_prior, spread, transition_matrix
from piclip.priors.visual_text import offset_gradient, visual_text_prior
from piclip.priors.visual_visual import mean_cosines, visual_visual_prior

__all__ = [
    "box_mask",
    "contrast_prior",
    "mean_cosines",
    "min_max",
    "offset_gradient",
    "refine_prior",
    "spread",
    "transition_matrix",
    "visual_text_prior",
    "visual_visual_prior",
]
