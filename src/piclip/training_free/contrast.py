"""The segmenter's evidence: object against background of the supports, and the class's name.

For a class with supports, of which patches s are shown with a coverage c_s, and a query patch q:

    z(q)  log ratio of the densities of object and background (`piclip.priors.contrast_prior`),
          mean over the tower's blocks
    r = (z + mean of z in the parts of the image that q belongs to) / 2
        + w logit t                                          with a name that the CLIP knows
    score = sigmoid(r)

t is VTP after PIR, and w = text_weight times how far the name is to be believed
(`piclip.training_free.naming`).
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
from piclip.io.supports import Labelled
from piclip.priors import contrast_prior
from piclip.training_free.clusters import average_over_parts, cluster_parts
from piclip.training_free.evidence import Answer, ClassMemory, Shown, cosine_spreads
from piclip.training_free.naming import (
    Said,
    agreement,
    map_log_odds,
    name_trust,
    named_log_odds,
    text_maps,
)
from piclip.training_free.presence import class_presence, lift, presence_level
from piclip.training_free.upsampling import EnlargedScores, edge_aware_upsample
from piclip.training_free.vision import Seen, Vision

_MARGIN = 0.25  # of the object's box on each side, when it is looked at closely
_MOST_PATCHES = 8192  # of one class; of more, as many are drawn
_FINE = 8  # pixels a patch at which edges are followed


class ContrastEvidence:
    """Compares whole supports, and their objects seen closely, with queries.

    Args:
        vision: The towers.
    """

    def __init__(self, vision: Vision) -> None:
        self.vision, self.settings = vision, vision.settings

    @torch.inference_mode()
    def learn(
        self,
        name: str,
        supports: Iterable[Labelled],
        texts: Tensor,
        negatives: Iterable[Image.Image],
    ) -> ClassMemory:
        """Builds the memory of one class.

        All patches of negatives are background. Without any background only the name can tell
        where the object is.

        Args:
            name: The class.
            supports: RGB images with their masks (H, W), none of them empty.
            texts: Vectors of the class and of its absence, (2, E); (0, 0) without a CLIP.
            negatives: RGB images without the class.

        Raises:
            UsageError: There is no background and no name that is read.
        """
        shown: list[Shown] = []
        parts: list[tuple[Tensor, Tensor, int]] = []
        for image, mask in supports:
            one = self._shown(image, mask, texts)
            top, bottom, left, right = _box(mask)
            closely = self.vision.see_support(image.crop((left, top, right, bottom)), texts=False)
            coverage = mask_coverage(mask[top:bottom, left:right], closely.grid).flatten()
            parts.append((one.seen.tokens[:, 0], one.coverage, len(shown)))
            parts.append((closely.tokens[:, 0], coverage.to(one.coverage.device), len(shown)))
            shown.append(one)
        without = [
            self._shown(image, np.zeros((image.height, image.width), dtype=bool), texts)
            for image in negatives
        ]
        for number, one in enumerate(without, len(shown)):
            parts.append((one.seen.tokens[:, 0], one.coverage, number))
        memory = _joined(name, len(shown), parts, texts)
        if said := [one.said for one in shown if one.said is not None]:
            maps = [one.refined.flatten() for one in said]
            memory = replace(
                memory,
                agreement=agreement(maps, [one.coverage for one in shown]),
                named=torch.cat([one.log_odds for one in said]).mean(),
            )
        if memory.coverage.min() == 1:
            memory = self._by_name_alone(memory)
        level = presence_level(
            self.log_odds, memory, shown, without, default=self.settings.presence
        )
        return replace(memory, level=level)

    def answer(
        self, seen: Seen, memories: Sequence[ClassMemory], contrast: Tensor | None
    ) -> Answer:
        """What is said of queries, among other things whose texts are ``contrast`` (X, E)."""
        supports_say = self.log_odds(seen, memories)
        maps, log_odds = {"contrast": torch.sigmoid(supports_say)}, supports_say
        said = self.said(seen, torch.stack([memory.texts for memory in memories]), contrast)
        asked = None if said is None else said.log_odds
        if said is not None:
            maps |= {"visual_text": said.plain, "visual_text_refined": said.refined}
            agreed = torch.stack([memory.agreement for memory in memories])
            shown = torch.stack([memory.named for memory in memories])
            trust = name_trust(agreed, shown, said.log_odds, self.settings.text_level)
            weight = self.settings.text_weight * trust[:, :, None, None]
            log_odds = supports_say + weight * map_log_odds(said.refined)
        maps["fused"] = torch.sigmoid(log_odds)
        return Answer(log_odds, maps, class_presence(seen, memories, supports_say, asked))

    def enlarge(
        self, values: Tensor, presence: Tensor | None, image: Image.Image
    ) -> EnlargedScores:
        """Values (C, h, w) along the image's edges, lifted by presence (C,), then bilinearly."""
        fine = self.follow_edges(values, image).cpu()
        if presence is not None:
            threshold = fine.new_tensor(self.settings.threshold)
            more = lift(fine.amax((1, 2)), presence.cpu(), threshold, self.settings.lift)
            fine = fine + more[:, None, None]
        return EnlargedScores(fine, (image.height, image.width), log_odds=True)

    def follow_edges(self, values: Tensor, image: Image.Image) -> Tensor:
        """Values (C, h, w) at 8 pixels a patch, along the edges of the image; linear in them."""
        height, width = (side * _FINE for side in values.shape[-2:])
        small = image.resize((width, height), Image.Resampling.BILINEAR)
        device = values.device if values.is_cuda else "cpu"  # MPS lacks what is needed
        colours = torch.from_numpy(np.array(small)).to(device).permute(2, 0, 1) / 255
        return edge_aware_upsample(values[None].to(device), colours[None])[0]

    def said(self, seen: Seen, texts: Tensor, contrast: Tensor | None = None) -> Said | None:
        """What the CLIP says of names (C, 2, E) in images; None without a CLIP."""
        if seen.encoding is None:
            return None
        plain, refined = text_maps(seen.encoding, texts, contrast=contrast)
        log_odds = named_log_odds(seen.encoding, texts)
        return Said(_on_grid(plain, seen.grid), _on_grid(refined, seen.grid), log_odds)

    def log_odds(self, seen: Seen, memories: Sequence[ClassMemory]) -> Tensor:
        """What the supports alone say: r without the names, (B, C, h, w)."""
        z = torch.stack([self.contrast(seen, memory).mean(0) for memory in memories], dim=1)
        parts = [cluster_parts(_joint(seen.tokens[:, index])) for index in range(len(z))]
        mean = torch.stack([average_over_parts(*pair) for pair in zip(z, parts, strict=True)])
        log_odds: Tensor = ((z + mean) / 2).unflatten(2, seen.grid)
        return log_odds

    def contrast(self, seen: Seen, memory: ClassMemory) -> Tensor:
        """Z of one class after each block, (L, B, N)."""
        blocks = [
            contrast_prior(
                query,
                support,
                memory.coverage[None],
                sharpness=self.settings.sharpness / float(spread),
            )[:, 0]
            for query, support, spread in zip(
                seen.tokens, memory.tokens, memory.spreads, strict=True
            )
        ]
        return torch.stack(blocks)

    def _shown(self, image: Image.Image, mask: NDArray[np.bool_], texts: Tensor) -> Shown:
        """One image that was labelled, without its encoding, which fifty of are too large."""
        seen = self.vision.see_support(image)
        coverage = mask_coverage(mask, seen.grid).flatten().to(seen.tokens.device)
        return Shown(replace(seen, encoding=None), coverage, self.said(seen, texts[None]))

    def _by_name_alone(self, memory: ClassMemory) -> ClassMemory:
        """The memory with full trust in the name, where there is one."""
        shown = f"The examples of {memory.name!r} show no background"
        wanted = "an example with background or an image without it as a negative"
        if not len(memory.texts) or not self.settings.text_weight:
            raise UsageError(f"{shown}, so that nothing tells it from other things; add {wanted}.")
        warnings.warn(f"{shown}, so only its name says where it is; add {wanted}.", stacklevel=2)
        return replace(memory, agreement=torch.ones_like(memory.agreement))


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
    device = tokens.device
    if len(coverage) > _MOST_PATCHES:
        order = torch.randperm(len(coverage), generator=torch.Generator().manual_seed(0))
        kept = order[:_MOST_PATCHES].sort().values
        tokens, coverage, owner = tokens[:, kept], coverage[kept], owner[kept]
    return ClassMemory(
        name=name,
        count=torch.tensor(count),
        tokens=tokens,
        spreads=cosine_spreads(tokens),
        coverage=coverage,
        owner=owner,
        texts=texts,
        agreement=torch.zeros((), device=device),
        named=torch.zeros((), device=device),
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
