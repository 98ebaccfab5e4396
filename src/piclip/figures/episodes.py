"""The paper's figures from the episodes of any dataset: Fig. 1, Fig. 3 and Fig. 4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from PIL import Image

from piclip.datasets.dataset import Sample
from piclip.datasets.few_shot import Episode, EpisodeKeys, FewShotView
from piclip.decoders.backbones import resize
from piclip.decoders.scorer import DecoderScorer
from piclip.decoders.views import laid_back
from piclip.errors import UsageError
from piclip.evaluation.metrics import FewShotIoU
from piclip.evaluation.predictor import CONTRAST, Predictor, blind, query_map, truth_of
from piclip.figures.panels import Panel, grid_figure, heat, panel_picture, with_mask
from piclip.figures.plots import TITLES
from piclip.segmenter import FewShotSegmenter
from piclip.training_free.scorer import TrainingFreeScorer

_SHOWN_TITLES = ("Support\nwith its mask", "Query\nwith the truth")


def pick_episodes(view: FewShotView, *, seed: int, shots: int, rows: int) -> list[EpisodeKeys]:
    """The first episodes of a seed, a new class in each row as long as there is one.

    Nothing is picked by hand: another seed, other episodes.

    Raises:
        UsageError: Less than one row.
        DatasetError: A class has too few images.
    """
    if rows < 1:
        raise UsageError("A figure needs at least one row.")
    chosen: list[EpisodeKeys] = []
    counts = dict.fromkeys(view.classes, 0)
    for index in range(max(100, 4 * len(view.keys))):
        keys = view.episode(seed, index, shots)
        if counts[keys.class_index] == min(counts.values()):
            counts[keys.class_index] += 1
            chosen.append(keys)
        if len(chosen) == rows:
            break
    return chosen


def previous_and_ours(
    view: FewShotView, keys: Sequence[EpisodeKeys], baseline: Predictor, ours: Predictor
) -> Figure:
    """Fig. 1: the prior of a backbone trained on base classes beside ours, on novel classes.

    The view is of these, with a key for each row. The baseline was trained with prior=imagenet; the
    CLIP of ours gives the refined visual-text and the visual-visual prior.
    """
    rows, ours = [], _published(ours)
    for episode in map(view.load, keys):
        theirs = _heat(episode.query, imagenet_prior(baseline, blind(episode)))
        maps = _priors(episode, ours, ("vtp+pir", "vvp", "piclip"))
        rows.append((episode.name, [*_shown(episode), theirs, *maps]))
    titles = (
        *_SHOWN_TITLES,
        "Previous prior\n(trained backbone)",
        "Ours: text\n(VTP, refined)",
        "Ours: image\n(VVP)",
        "Ours: mean\nof both",
    )
    return grid_figure(rows, titles, scale=True)


def baseline_and_ours(
    view: FewShotView,
    keys: Sequence[EpisodeKeys],
    baseline: Predictor,
    ours: Predictor,
    names: tuple[str, str] = ("Baseline", "Ours"),
) -> Figure:
    """Fig. 3: support, truth, and the masks of two methods, called ``names``, with their IoU.

    View and keys as in `previous_and_ours`.
    """
    rows = []
    for episode in map(view.load, keys):
        panels = _shown(episode)
        truth = truth_of(episode.query, episode.class_index)
        for method in (baseline, ours):
            mask, meter = method.predict(blind(episode)), FewShotIoU((episode.name,))
            meter.add(episode.name, mask, truth)
            panels.append(Panel(_masked(episode.query, mask), f"IoU {100 * meter.miou():.1f} %"))
        rows.append((episode.name, panels))
    return grid_figure(rows, (*_SHOWN_TITLES, *names))


def before_and_after(
    view: FewShotView, keys: Sequence[EpisodeKeys], segmenter: Predictor
) -> Figure:
    """Fig. 4: both published priors before and after refinement, and the segmenter's evidence.

    The segmenter's CLIP gives the priors; view and keys as in `previous_and_ours`.
    """
    rows, published = [], _published(segmenter)
    for episode in map(view.load, keys):
        maps = _priors(episode, published, ("vtp", "vtp+pir", "vvp", "vvp+pir"))
        own = _priors(episode, segmenter, (CONTRAST,))
        rows.append((episode.name, [*_shown(episode), *maps, *own]))
    titles = (
        *_SHOWN_TITLES,
        "Text prior\n(VTP)",
        "Text prior,\nrefined",
        "Image prior\n(VVP)",
        "Image prior,\nrefined",
        TITLES["contrast"],
    )
    return grid_figure(rows, titles, scale=True)


@torch.inference_mode()
def imagenet_prior(predictor: Predictor, episode: Episode) -> npt.NDArray[np.float32]:
    """The previous approach's prior of a decoder's backbone, mean over shots, (H, W) in [0, 1].

    Raises:
        UsageError: There is no decoder, or it was trained with another prior.
    """
    scorer = predictor.segmenter.scorer
    if not isinstance(scorer, DecoderScorer):
        raise UsageError(
            "The previous prior needs a trained decoder, whose backbone it looks at; name the run "
            "of a training."
        )
    if scorer.decoder.prior != "imagenet":
        raise UsageError(
            f"The previous prior is that of a decoder trained with prior=imagenet, but the "
            f"prior of this one is '{scorer.decoder.prior}'; name another run."
        )
    index = episode.class_index
    labelled = [(Image.fromarray(s.image), s.mask(index)) for s in episode.supports]
    (query,) = scorer.encode_queries([episode.query.image])
    memory = scorer.fit(episode.name, labelled)
    masks = memory.masks[None].to(scorer.device)
    prior = scorer.decoder.imagenet_priors(query.maps, memory.maps, masks)
    mean = prior.mean(dim=1, keepdim=True).float().cpu()
    view = resize(mean, (scorer.size, scorer.size))[0]
    height, width = episode.query.class_map.shape
    return np.asarray(laid_back(view, (height, width))[0].clamp(0, 1).numpy())


def _published(predictor: Predictor) -> Predictor:
    """The same CLIP with the published priors."""
    scorer = TrainingFreeScorer(predictor.segmenter.encoder, evidence="published")
    return replace(predictor, segmenter=FewShotSegmenter(scorer), source=None)


def _shown(episode: Episode) -> list[Panel]:
    """The first support with its mask, and the query with the truth."""
    support, query = episode.supports[0], episode.query
    shots = len(episode.supports)
    caption = f"1 of {shots}" if shots > 1 else ""
    return [
        Panel(_masked(support, support.mask(episode.class_index)), caption),
        Panel(_masked(query, query.mask(episode.class_index))),
    ]


def _priors(episode: Episode, segmenter: Predictor, names: Sequence[str]) -> list[Panel]:
    """The maps that names of `piclip.evaluation.predictor.PRIORS` stand for."""
    result = segmenter.segment(blind(episode))
    return [_heat(episode.query, query_map(result, name)) for name in names]


def _masked(sample: Sample, mask: npt.NDArray[np.bool_]) -> Image.Image:
    return with_mask(Image.fromarray(sample.image), mask)


def _heat(sample: Sample, values: npt.NDArray[np.float32]) -> Panel:
    return Panel(heat(panel_picture(Image.fromarray(sample.image)), values))
