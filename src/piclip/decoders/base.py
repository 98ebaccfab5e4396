"""What the few-shot decoders have in common.

An episode is a query image and K supports with masks. A frozen backbone gives maps of its stages
2 ("low"), 3 ("middle") and 4 ("high"). Low and middle become one reduced map, averaged over each
support's mask to a prototype; a *prior* says beforehand where the object may be in the query.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from piclip.decoders.backbones import Backbone, build_backbone, resize
from piclip.decoders.features import EpisodeFeatures, Features
from piclip.decoders.layers import reduction
from piclip.decoders.matching import masked_average, max_cosine_prior, object_masks
from piclip.decoders.output import DecoderOutput, cross_entropy
from piclip.decoders.pretrained import PretrainedModule, load_strictly
from piclip.errors import UsageError

Prior = Literal["imagenet", "piclip", "none"]
PRIOR_CHANNELS: dict[str, int] = {"imagenet": 1, "piclip": 2, "none": 0}


class FewShotDecoder(PretrainedModule, ABC):
    """A decoder on a frozen backbone, for any number of supports.

    Args:
        backbone: Name of the backbone, see :func:`piclip.decoders.backbones.build_backbone`.
        backbone_options: Its options, for instance ``{"width": 16}``.
        prior: ``imagenet``: one channel, the cosine of high features, averaged over supports;
            ``piclip``: two channels, the refined text prior and the visual prior, given to
            :meth:`forward`; ``none``: no channel.
        width: Channels of the reduced features.
        dropout: Probability with which a channel of the reduced features is dropped in training.

    Attributes:
        loss_weights: Weight of each term in :meth:`loss`; 1 for a term that is not named.
        knows_base_classes: Whether there is a base learner, which reads stage 4 of the query.
        backbone_name: Name of the backbone.
        prior_channels: Number of channels of the prior.
        published_visual: Which visual prior published weights take, in the words of
            :class:`piclip.decoders.clip_priors.PriorMaker`; for weights whose training is unknown.

    Raises:
        UsageError: If a name is unknown.
    """

    published_visual: str = "plain"
    loss_weights: ClassVar[Mapping[str, float]] = {}
    knows_base_classes: ClassVar[bool] = False

    def __init__(
        self,
        *,
        backbone: str = "resnet50",
        backbone_options: dict[str, Any] | None = None,
        prior: Prior = "imagenet",
        width: int = 256,
        dropout: float = 0.5,
    ) -> None:
        if prior not in PRIOR_CHANNELS:
            raise UsageError(f"There is no prior {prior!r}: choose imagenet, piclip or none.")
        super().__init__()
        self.prior = prior
        self.prior_channels = PRIOR_CHANNELS[prior]
        self.width = width
        self.backbone_name = backbone
        self.backbone: Backbone = build_backbone(backbone, **(backbone_options or {}))
        self.backbone.requires_grad_(False).eval()
        both = self.backbone.channels[0] + self.backbone.channels[1]
        self.reduce_query = reduction(both, width, dropout)
        self.reduce_support = reduction(both, width, dropout)

    def train(self, mode: bool = True) -> FewShotDecoder:
        """Switches to training; the frozen parts stay in evaluation (batch norm, dropout)."""
        super().train(mode)
        for module in self.frozen():
            module.eval()
        return self

    def frozen(self) -> tuple[nn.Module, ...]:
        """The submodules that are not trained."""
        return (self.backbone,)

    def load_base_learner(self, learner: nn.Module) -> None:
        """Takes over the backbone of a trained :class:`piclip.decoders.pspnet.PSPNet`.

        Raises:
            ModelError: If the backbones differ.
        """
        load_strictly(
            self.backbone,
            learner.get_submodule("backbone").state_dict(),
            what=f"the backbone of this {self.name}",
        )

    def forward(
        self,
        query: Tensor,
        supports: Tensor,
        masks: Tensor,
        priors: Tensor | None = None,
        base_class: Tensor | None = None,
    ) -> DecoderOutput:
        """Segments the queries.

        Args:
            query: Queries with ImageNet's mean and deviation removed, (B, 3, H, W).
            supports: Supports, the same way, (B, K, 3, H', W').
            masks: Their masks, (B, K, H', W'): 1 is the object; 0 and 255 are not.
            priors: For ``prior="piclip"``: refined text prior and visual prior, (B, 2, h, w).
            base_class: In training, the index of the episode's class among the base classes, long
                (B,): decoders with a base learner do not count its pixels as background.

        Returns:
            Scores at the size of the query.

        Raises:
            UsageError: If shapes do not fit together, or the prior is absent.
        """
        self.check_episode(query, supports, masks, priors)
        seen, shown = self.query_features(query), self.support_features(supports, masks)
        episodes = EpisodeFeatures(seen, shown, masks, priors, base_class)
        return self.decode(episodes).resized(query.shape[-2:])

    @abstractmethod
    def decode(self, episodes: EpisodeFeatures) -> DecoderOutput:
        """Segments queries whose maps, like those of the supports, are there already.

        Args:
            episodes: What :meth:`query_features` and :meth:`support_features` returned, with the
                rest as in :meth:`forward`.

        Returns:
            Scores at sizes of the decoder's own.
        """

    def loss(
        self, output: DecoderOutput, target: Tensor, base_target: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Returns the terms of the loss and, as ``"loss"``, their weighted sum.

        Args:
            output: What :meth:`forward` returned.
            target: Masks of the queries, long (B, H, W): 0, 1, 255 = ignore.
            base_target: Base classes of the queries, long (B, H, W): 0 background, 255 = ignore.

        Returns:
            ``main``; ``auxiliary``, the mean over the auxiliary scores; ``base``, if there are
            base scores and a target for them; the output's extra terms; and ``loss``.
        """
        terms = {"main": self.mask_loss(output.logits, target)}
        if output.auxiliary:
            losses = [self.mask_loss(logits, target) for logits in output.auxiliary]
            terms["auxiliary"] = torch.stack(losses).mean()
        if output.base_logits is not None and base_target is not None:
            terms["base"] = cross_entropy(output.base_logits, base_target)
        terms.update(output.extra)
        weighted = [self.loss_weights.get(name, 1.0) * term for name, term in terms.items()]
        return {"loss": torch.stack(weighted).sum(), **terms}

    def mask_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of one map of scores against the mask: cross entropy, 255 ignored."""
        return cross_entropy(logits, target)

    def check_episode(
        self, query: Tensor, supports: Tensor, masks: Tensor, priors: Tensor | None
    ) -> None:
        """Raises :class:`UsageError` where the tensors of an episode do not fit together."""
        if query.ndim != 4 or supports.ndim != 5 or supports.shape[1] < 1:
            raise UsageError(
                f"Queries are (B, 3, H, W) and supports (B, K, 3, H, W) with K of at least 1, not "
                f"{tuple(query.shape)} and {tuple(supports.shape)}."
            )
        if len(query) != len(supports):
            raise UsageError(
                f"{len(query)} queries came with supports for {len(supports)}: give every query "
                "its supports."
            )
        if masks.shape != (*supports.shape[:2], *supports.shape[-2:]):
            raise UsageError(
                f"The masks {tuple(masks.shape)} do not fit the supports {tuple(supports.shape)}: "
                "give one mask (H, W) per support."
            )
        if self.prior == "piclip" and priors is None:
            raise UsageError(
                "This decoder was built with prior='piclip': give it the priors (B, 2, h, w)."
            )
        if priors is not None and priors.shape[:2] != (len(query), 2):
            raise UsageError(
                f"The priors {tuple(priors.shape)} should be (B, 2, h, w), B = {len(query)}: the "
                "refined text prior and the visual prior."
            )

    @torch.no_grad()
    def query_features(self, query: Tensor) -> Features:
        """Returns the backbone's maps of the queries, (B, 3, H, W) -> (B, C, h, w).

        Where neither the prior nor a base learner reads ``high``, it is empty, (0, C, h, w).
        """
        low, middle = self.backbone.lower(query)
        read = self.prior == "imagenet" or self.knows_base_classes
        return Features(low, middle, self.backbone.upper(middle) if read else middle[:0])

    @torch.no_grad()
    def support_features(self, supports: Tensor, masks: Tensor) -> Features:
        """Returns the backbone's maps of the supports; stage 4 sees the object only.

        Args:
            supports: Supports, (B, K, 3, H, W).
            masks: Their masks, (B, K, H, W).

        Returns:
            Maps (B * K, C, h, w); ``high`` is stage 4 of the masked stage 3. Only the ImageNet
            prior reads it: with another prior it is empty.
        """
        low, middle = self.backbone.lower(supports.flatten(0, 1))
        if self.prior != "imagenet":
            return Features(low, middle, middle[:0])
        inside = object_masks(masks, middle.shape[-2:])
        return Features(low, middle, self.backbone.upper(middle * inside))

    def prototypes(self, supports: Features, masks: Tensor) -> Tensor:
        """Returns the prototype of each support in the reduced features, (B, K, width)."""
        reduced = self.reduce_support(supports.joined())
        inside = object_masks(masks, reduced.shape[-2:])
        return masked_average(reduced, inside).reshape(*masks.shape[:2], -1)

    @torch.no_grad()
    def imagenet_priors(self, query: Features, supports: Features, masks: Tensor) -> Tensor:
        """Returns the max-cosine prior of each support, (B, K, h, w), at the middle size.

        The supports' high features are masked once more, with the mask resized to their size.
        """
        inside = object_masks(masks, supports.high.shape[-2:])
        high = (supports.high * inside).unflatten(0, masks.shape[:2])
        maps = [max_cosine_prior(query.high, shot) for shot in high.unbind(1)]
        return resize(torch.cat(maps, 1), query.middle.shape[-2:])

    def prior_maps(self, episodes: EpisodeFeatures, weights: Tensor) -> Tensor:
        """Returns the prior of each query at the size of its middle features.

        Args:
            episodes: B episodes of K supports.
            weights: Weight of each support, (B, K), summing to one.

        Returns:
            Prior, (B, prior_channels, h, w).
        """
        middle, priors = episodes.query.middle, episodes.priors
        if self.prior == "imagenet":
            maps = self.imagenet_priors(episodes.query, episodes.supports, episodes.masks)
            mean: Tensor = (weights[:, :, None, None] * maps).sum(1, keepdim=True)
            return mean
        if self.prior == "piclip" and priors is not None:
            return resize(priors.to(middle.dtype), middle.shape[-2:])
        return middle[:, :0]
