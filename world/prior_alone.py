"""A prior as it enters a decoder, answering by itself."""

from __future__ import annotations

from typing import Any

import torch

from piclip.decoders.backbones import resize
from piclip.decoders.base import DecoderOptions, DecoderOutput, EpisodeFeatures, FewShotDecoder


class PriorAlone(FewShotDecoder):
    """A prior as it enters a decoder, for its scores; nothing is trained."""

    name = "threshold"
    Options = DecoderOptions

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - of many kinds
        super().__init__(**options)
        self.reduce_query = self.reduce_support = torch.nn.Sequential()

    def decode(self, episodes: EpisodeFeatures) -> DecoderOutput:
        """See `FewShotDecoder.decode`; the sigmoid of the scores is the mean of the maps."""
        count, shots = episodes.masks.shape[:2]
        weights = episodes.query.middle.new_full((count, shots), 1 / shots)
        maps = self.prior_maps(episodes, weights)
        there = maps.flatten(2).amax(2) > 0  # a map that is left out is zero
        mean = maps.sum(1, keepdim=True) / there.sum(1).clamp(min=1)[:, None, None, None]
        foreground = resize(mean, episodes.masks.shape[-2:]).clamp(0, 1).logit(eps=1e-6)
        return DecoderOutput(torch.cat([torch.zeros_like(foreground), foreground], 1))
