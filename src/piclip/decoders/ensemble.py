"""How BAM and HDMNet weigh the supports and join the meta learner with the base learner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from piclip.decoders.base import DecoderOptions, FewShotDecoder
from piclip.decoders.networks import PretrainedModule, load_strictly
from piclip.decoders.pspnet import PyramidHead


def gram(features: Tensor) -> Tensor:
    """Returns the cosines of all channels over the positions, (N, C, h, w) -> (N, C, C)."""
    rows = features.flatten(2)
    norms = rows.norm(dim=2, keepdim=True)
    cosines: Tensor = (rows @ rows.transpose(1, 2)) / (norms @ norms.transpose(1, 2) + 1e-7)
    return cosines


@torch.no_grad()
def gram_distances(query: Tensor, supports: Tensor) -> Tensor:
    """Says how far the style of each support is from the query's.

    ``d = |G(query) - G(support)| / C`` with Frobenius' norm: low features of the queries,
    (B, C, h, w), and of their supports, (B * K, C, h, w), without mask, give distances (B, K).
    """
    differences = gram(query)[:, None] - gram(supports).unflatten(0, (len(query), -1))
    distances: Tensor = torch.linalg.matrix_norm(differences) / query.shape[1]
    return distances


class ShotWeights(nn.Module):
    """Weights of the supports: the nearer a support's style is to the query's, the more it counts.

    They are ``softmax(-s * d)`` for any number of supports, s learnt, starting at 1. Only more than
    one support trains the scale; a network trained with one works with five.

    BAM's own are those of a small network for one number of supports: the distances, sorted
    ascending, are its channels; its outputs are put back in the order of the supports and go
    through a softmax. For another number than its own the weights are ``softmax(-d)``.

    Args:
        published_shots: The number of supports of BAM's own weights, to have these. One support has
            weight 1 and needs no network.
        hidden: Their hidden channels; 0 is a single layer without bias.
    """

    def __init__(self, published_shots: int | None = None, hidden: int = 2) -> None:
        super().__init__()
        self.shots = shots = published_shots or 1
        own = published_shots is None
        self.scale: Tensor | float = nn.Parameter(torch.ones(())) if own else 1.0
        self.layers: nn.Module | None = None
        if shots > 1 and hidden == 0:
            self.layers = nn.Conv2d(shots, shots, 1, bias=False)
            nn.init.constant_(self.layers.weight, 1 / shots)
        elif shots > 1:
            self.layers = nn.Sequential(
                nn.Conv2d(shots, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, shots, 1)
            )

    def forward(self, distances: Tensor) -> Tensor:
        """Returns weights that sum to one, (B, K) -> (B, K)."""
        if self.layers is None or distances.shape[1] != self.shots:
            return torch.softmax(-self.scale * distances, 1)
        return torch.softmax(self.scores(self.layers, distances), 1)

    def scores(self, layers: nn.Module, distances: Tensor) -> Tensor:
        """Applies layers to the sorted distances; scores in the order of the supports, (B, K)."""
        ascending, order = distances.sort(1)
        scores: Tensor = layers(ascending[:, :, None, None]).flatten(1)
        return scores.gather(1, order.argsort(1))


def known_elsewhere(base_logits: Tensor, base_class: Tensor | None = None) -> Tensor:
    """Returns the probability, (B, 1, h, w), that a pixel shows a base class: background here.

    It comes from scores of background and base classes, (B, 1 + base, h, w). The base class that is
    the object of the episode, long (B,), is left out of the sum; only in training, for a novel
    object is no base class.
    """
    probabilities = base_logits.softmax(1)[:, 1:]
    if base_class is not None:
        counted = torch.ones_like(probabilities)
        counted[torch.arange(len(counted)), base_class] = 0
        probabilities = probabilities * counted
    return probabilities.sum(1, keepdim=True)


class Ensemble(nn.Module):
    """Joins the meta learner with the base learner.

    The probabilities of the meta learner are adjusted by the distance of the supports, then its
    background is merged with what the base learner knows. Both 1x1 convolutions start as the
    identity on the meta learner. As published, the results are not probabilities any more, and
    they are trained as scores.
    """

    def __init__(self) -> None:
        super().__init__()
        self.adjust = nn.Conv2d(2, 1, 1, bias=False)
        self.merge = nn.Conv2d(2, 1, 1, bias=False)
        for layer in (self.adjust, self.merge):
            with torch.no_grad():
                layer.weight.copy_(torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1))

    def forward(self, meta_logits: Tensor, distance: Tensor, elsewhere: Tensor) -> Tensor:
        """Returns scores of background and object, (B, 2, h, w).

        Args:
            meta_logits: Those of the meta learner, (B, 2, h, w).
            distance: Weighted distance of the supports, (B,).
            elsewhere: Probability of base classes, (B, 1, h, w), see `known_elsewhere`.
        """
        background, foreground = meta_logits.softmax(1).split(1, 1)
        distances = distance[:, None, None, None].expand_as(foreground)
        background = self.adjust(torch.cat([background, distances], 1))
        foreground = self.adjust(torch.cat([foreground, distances], 1))
        background = self.merge(torch.cat([background, elsewhere], 1))
        return torch.cat([background, foreground], 1)


@dataclass(frozen=True, kw_only=True)
class EnsembleOptions(DecoderOptions):
    """What a decoder with a base learner is built with.

    With ``published_shots`` it has the form of a published checkpoint of so many shots; our own is
    trained by any number.
    """

    base_classes: int = 15  # of the base learner, without background
    base_width: int = 512  # channels before its classifier
    published_shots: int | None = None


class EnsembleDecoder(FewShotDecoder):
    """A decoder with a frozen base learner, which knows the classes that are not the object."""

    knows_base_classes = True
    options: EnsembleOptions

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - of many kinds
        super().__init__(**options)
        self.base_learner = PyramidHead(
            self.backbone.channels[2], self.options.base_classes + 1, width=self.options.base_width
        )
        self.base_learner.requires_grad_(False).eval()

    def load_base_learner(self, learner: PretrainedModule) -> None:
        """Takes over the head, too; ModelError if the number of base classes differs."""
        super().load_base_learner(learner)
        load_strictly(
            self.base_learner,
            learner.get_submodule("head").state_dict(),
            what=f"the base learner of this {self.name}",
        )
