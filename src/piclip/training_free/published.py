"""The published priors as evidence: PI-CLIP's VTP and VVP, and their mean as the score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from piclip.clip.encoder import Encoder
from piclip.clip.features import SupportFeatures, encode_object, pad_objects
from piclip.clip.preprocessing import (
    fit_size,
    mask_coverage,
    object_patches,
    object_pixels,
    to_pixels,
)
from piclip.io.supports import Labelled
from piclip.priors import box_mask, mean_cosines, min_max, spread, transition_matrix
from piclip.training_free.evidence import Answer, ClassMemory
from piclip.training_free.naming import text_map
from piclip.training_free.upsampling import EnlargedScores
from piclip.training_free.vision import Seen


class PublishedEvidence:
    """What a frozen CLIP says of a name and of masked supports; asked as `ContrastEvidence` is.

    The score is the mean of VTP after PIR and of VVP, the two maps that PI-CLIP's decoders take.

    Args:
        encoder: The CLIP.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    @torch.inference_mode()
    def learn(
        self,
        name: str,
        supports: Iterable[Labelled],
        texts: Tensor,
        negatives: Iterable[Image.Image],
    ) -> ClassMemory:
        """Encodes each support masked, and keeps its object's patches of the last two blocks."""
        parts = [self._object(*support) for support in supports]
        counts = [part.shape[1] for part in parts]
        tokens = torch.cat(parts, dim=1)
        return ClassMemory(
            name=name,
            count=torch.tensor(len(parts)),
            tokens=tokens,
            spreads=tokens.new_ones(len(tokens)),
            coverage=tokens.new_ones(tokens.shape[1]),
            owner=torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)),
            texts=texts,
            agreement=tokens.new_ones(()),
            named=tokens.new_zeros(()),
            level=tokens.new_zeros(()),
        )

    def answer(
        self, seen: Seen, memories: Sequence[ClassMemory], contrast: Tensor | None
    ) -> Answer:
        """The four maps of Fig. 4 of the paper."""
        encoding = seen.encoding
        assert encoding is not None
        texts = torch.stack([memory.texts for memory in memories])
        plain = text_map(encoding, texts, contrast=contrast)
        blocks = (encoding.last, encoding.previous)
        cosines = [mean_cosines(blocks, *_objects(memory)) for memory in memories]
        visual = min_max(torch.stack(cosines, dim=1).unflatten(2, encoding.grid))
        # Squaring sharpens the flat map of cosines before it is spread along the attention.
        transition = transition_matrix(encoding.attention)
        refined, visual_refined = (
            spread(maps * box_mask(maps), transition) for maps in (plain, visual**2)
        )
        score = (refined + visual) / 2
        maps = {
            "visual_text": plain,
            "visual_text_refined": refined,
            "visual_visual": visual,
            "visual_visual_refined": visual_refined,
            "fused": score,
        }
        return Answer(score, maps, None)

    def enlarge(
        self, values: Tensor, presence: Tensor | None, image: Image.Image
    ) -> EnlargedScores:
        """Bilinearly, as published."""
        return EnlargedScores(values.cpu(), (image.height, image.width), log_odds=False)

    def _object(self, image: Image.Image, mask: NDArray[np.bool_]) -> Tensor:
        """Tokens (2, M, D) of the object in an image that is masked."""
        encoder, settings = self.encoder, self.encoder.settings
        patch = encoder.patch_size
        size = fit_size(image.height, image.width, image_size=encoder.image_size, patch=patch)
        shown = object_patches(mask_coverage(mask, (size[0] // patch, size[1] // patch)))
        pixels = to_pixels(image, size, settings.mean, settings.std)
        pixels = pixels * object_pixels(mask_coverage(mask, size))
        found = encode_object(encoder, pixels, shown.flatten())
        return torch.stack([found.previous, found.last])


def _objects(memory: ClassMemory) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Object patches of the supports after the last and the previous block, and which there are."""
    own = [memory.tokens[:, memory.owner == number] for number in range(memory.shots)]
    last, previous, valid = pad_objects([SupportFeatures(one[1], one[0]) for one in own])
    return (last, previous), valid
