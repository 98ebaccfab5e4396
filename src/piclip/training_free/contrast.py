"""The segmenter's evidence: object against background of the supports, and the class's name.

For a class with supports, of which patches s are shown with a coverage c_s, and a query patch q:

    z(q)  log ratio of the densities of object and background (`piclip.priors.contrast_prior`),
          mean over the tower's blocks
    r = (z + mean of z in the parts of the image that q belongs to) / 2
        + w logit t                                          with a name that the CLIP knows
    score = sigmoid(r)

t is VTP after PIR. The name counts as far as its map agrees with the supports' masks:
w = text_weight (2 AUC - 1)^2, with the AUC of t between object and background patches of the
supports. So a name that the CLIP does not know, or supports of another class than the name says,
leave the word to the supports.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from piclip.clip.preprocessing import mask_coverage
from piclip.errors import UsageError
from piclip.priors import contrast_prior
from piclip.training_free.clusters import average_over_parts, cluster_parts
from piclip.training_free.evidence import Answer, ClassMemory
from piclip.training_free.presence import class_presence, presence_level
from piclip.training_free.upsampling import edge_aware_upsample
from piclip.training_free.vision import Seen, Vision, text_maps

_MARGIN = 0.25  # of the object's box on each side, when it is looked at closely
_MOST_PATCHES = 8192  # of one class; more supports are thinned evenly
_FINE = 8  # pixels a patch at which edges are followed
_CLAMP = 1e-2  # of the name's map before its logit: +-4.6


class ContrastEvidence:
    """Compares whole supports, and their objects seen closely, with queries.

    Args:
        vision: The towers.
    """

    def __init__(self, vision: Vision) -> None:
        self.vision, self.settings = vision, vision.tower.settings

    @torch.inference_mode()
    def learn(
        self,
        name: str,
        supports: Iterable[tuple[Image.Image, NDArray[np.bool_]]],
        texts: Tensor,
        negatives: Iterable[Image.Image],
    ) -> ClassMemory:
        """See `Evidence.learn`; all patches of negatives are background.

        Without any background only the name can tell where the object is.

        Raises:
            UsageError: There is no background and no name that is read.
        """
        whole, parts = [], []
        for number, (image, mask) in enumerate(supports):
            seen = self.vision.see_support(image)
            coverage = mask_coverage(mask, seen.grid).flatten().to(seen.tokens.device)
            whole.append((seen, coverage))
            parts.append((seen.tokens[:, 0], coverage, number))
            top, bottom, left, right = _box(mask)
            closely = self.vision.see_support(image.crop((left, top, right, bottom)), texts=False)
            shown = mask_coverage(mask[top:bottom, left:right], closely.grid).flatten()
            parts.append((closely.tokens[:, 0], shown.to(coverage.device), number))
        without = [self.vision.see_support(image) for image in negatives]
        for number, seen in enumerate(without, len(whole)):
            parts.append((seen.tokens[:, 0], seen.tokens.new_zeros(seen.tokens.shape[2]), number))
        memory = _joined(name, len(whole), parts, texts)
        if memory.coverage.min() == 1:
            memory = replace(memory, trust=self._name_alone(memory))
        elif len(texts):
            memory = replace(memory, trust=self._trust(memory, whole))
        level = presence_level(
            self,
            memory,
            [seen for seen, _ in whole],
            without,
            default=self.settings.presence,
            logit_scale=self._scale,
        )
        return replace(memory, level=level)

    def answer(
        self, seen: Seen, memories: Sequence[ClassMemory], contrast: Tensor | None
    ) -> Answer:
        """See `Evidence.answer`."""
        log_odds = self.log_odds(seen, memories)
        shown = log_odds
        maps = {"contrast": torch.sigmoid(shown)}
        if seen.encoding is not None:
            texts = torch.stack([memory.texts for memory in memories])
            plain, refined = text_maps(
                seen.encoding, texts, logit_scale=self._scale, contrast=contrast
            )
            plain, refined = (_on_grid(part, seen.grid) for part in (plain, refined))
            maps |= {"visual_text": plain, "visual_text_refined": refined}
            weight = self.settings.text_weight * torch.stack([m.trust for m in memories])
            named = torch.logit(refined.clamp(_CLAMP, 1 - _CLAMP))
            log_odds = log_odds + weight.view(-1, 1, 1) * named
        maps["fused"] = torch.sigmoid(log_odds)
        presence = [
            class_presence(seen, memory, shown[:, index].flatten(1), self._scale)
            for index, memory in enumerate(memories)
        ]
        return Answer(log_odds, maps, torch.stack(presence, dim=1))

    def enlarge(self, values: Tensor, image: Image.Image) -> Tensor:
        """Along the image's edges at 8 pixels a patch, then bilinearly to its own size."""
        height, width = (side * _FINE for side in values.shape[-2:])
        small = image.resize((width, height), Image.Resampling.BILINEAR)
        colours = torch.from_numpy(np.array(small)).to(values.device).permute(2, 0, 1) / 255
        fine = edge_aware_upsample(values[None], colours[None])
        size = (image.height, image.width)
        full: Tensor = F.interpolate(fine, size=size, mode="bilinear", align_corners=False)
        scores: Tensor = full[0].sigmoid()
        return scores

    def log_odds(self, seen: Seen, memories: Sequence[ClassMemory]) -> Tensor:
        """R without the name, (B, C, h, w)."""
        z = torch.stack([self._contrast(seen, memory) for memory in memories], dim=1)
        parts = [cluster_parts(_joint(seen.tokens[:, index])) for index in range(len(z))]
        mean = torch.stack([average_over_parts(*pair) for pair in zip(z, parts, strict=True)])
        log_odds: Tensor = ((z + mean) / 2).unflatten(2, seen.grid)
        return log_odds

    def _contrast(self, seen: Seen, memory: ClassMemory) -> Tensor:
        """Z of one class, mean over the blocks, (B, N)."""
        blocks = [
            contrast_prior(
                query, support, memory.coverage[None], sharpness=self.settings.sharpness / spread
            )[:, 0]
            for query, support, spread in zip(
                seen.tokens, memory.tokens, _spreads(memory.tokens), strict=True
            )
        ]
        return torch.stack(blocks).mean(0)

    def _name_alone(self, memory: ClassMemory) -> Tensor:
        """Full trust in the name, where there is one."""
        shown = f"The examples of {memory.name!r} show no background"
        wanted = "an example with background or an image without it as a negative"
        if not len(memory.texts) or not self.settings.text_weight:
            raise UsageError(f"{shown}, so that nothing tells it from other things; add {wanted}.")
        warnings.warn(f"{shown}, so only its name says where it is; add {wanted}.", stacklevel=2)
        return torch.ones_like(memory.trust)

    def _trust(self, memory: ClassMemory, whole: Sequence[tuple[Seen, Tensor]]) -> Tensor:
        """(2 AUC - 1)^2 of the name's map on the supports, 0 where it is no better than chance."""
        maps, coverages = [], []
        for seen, coverage in whole:
            assert seen.encoding is not None
            _, refined = text_maps(
                seen.encoding, memory.texts[None], logit_scale=self._scale, contrast=None
            )
            maps.append(_on_grid(refined, seen.grid).flatten())
            coverages.append(coverage)
        area = area_under_curve(torch.cat(maps), torch.cat(coverages))
        trust: Tensor = (2 * area - 1).clamp_min(0).square()
        return trust

    @property
    def _scale(self) -> float:
        return 0.0 if self.vision.encoder is None else self.vision.encoder.logit_scale


def area_under_curve(values: Tensor, coverage: Tensor) -> Tensor:
    """Probability that an object patch has a greater value than a background patch.

    Args:
        values: (N,).
        coverage: Share of each patch that is object, (N,) in [0, 1].

    Returns:
        Of a pair drawn by coverage, ties by halves, () in [0, 1]; 0.5 where all is object or all
        background.
    """
    levels, place = values.unique(return_inverse=True)
    inside = torch.zeros_like(levels).index_add_(0, place, coverage.to(levels.dtype))
    outside = torch.zeros_like(levels).index_add_(0, place, 1 - coverage.to(levels.dtype))
    pairs = inside.sum() * outside.sum()
    below = outside.cumsum(0) - outside / 2
    area: Tensor = (inside * below).sum() / pairs
    return torch.where(pairs > 0, area, 0.5)


def _spreads(tokens: Tensor) -> list[float]:
    """Standard deviation of the cosines between patches that were shown, for each block.

    Of vectors with the mean m and the covariance S, the cosines of all pairs have the variance
    2 m^T S m + |S|^2, so no matrix of pairs is made, and narrow cosines lose no digits.
    """
    spreads = []
    for part in tokens:
        mean = part.mean(0)
        covariance = (part - mean).mT @ (part - mean) / len(part)
        variance = 2 * mean @ covariance @ mean + covariance.square().sum()
        spreads.append(float(variance.clamp_min(1e-8).sqrt()))
    return spreads


def _joint(tokens: Tensor) -> Tensor:
    """The blocks of one image (L, N, D) side by side, unit vectors (N, L D)."""
    return F.normalize(torch.cat(list(tokens), dim=-1), dim=-1)


def _on_grid(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    if maps.shape[-2:] == grid:
        return maps
    resized: Tensor = F.interpolate(maps, size=grid, mode="bilinear", align_corners=False)
    return resized


def _joined(
    name: str, count: int, parts: Sequence[tuple[Tensor, Tensor, int]], texts: Tensor
) -> ClassMemory:
    tokens = torch.cat([part for part, _, _ in parts], dim=1)
    coverage = torch.cat([part for _, part, _ in parts])
    owner = torch.cat([torch.full((len(c),), number) for _, c, number in parts])
    step = -(-len(coverage) // _MOST_PATCHES)
    device = tokens.device
    return ClassMemory(
        name=name,
        count=torch.tensor(count),
        tokens=tokens[:, ::step].contiguous(),
        coverage=coverage[::step].contiguous(),
        owner=owner[::step].contiguous(),
        texts=texts,
        trust=torch.zeros((), device=device),
        level=torch.zeros((), device=device),
    )


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a close look at the object, at least half as wide as long."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    height, width = (np.ptp(side) + 1 for side in (rows, columns))
    longer = max(height, width) / 2
    box = []
    for side, length, whole in ((rows, height, mask.shape[0]), (columns, width, mask.shape[1])):
        reach = max(length, longer) * (0.5 + _MARGIN)
        centre = (side[0] + side[-1] + 1) / 2
        box += [max(0, int(centre - reach)), min(whole, int(np.ceil(centre + reach)))]
    return box[0], box[1], box[2], box[3]
