"""Loading, converting and saving CLIP checkpoints."""

from __future__ import annotations

from piclip.clip.conversion import clip_from_state_dict

__all__ = ["clip_from_state_dict"]
