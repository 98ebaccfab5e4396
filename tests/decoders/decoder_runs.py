"""Folders of trainings, the segmenters of their decoders, and what a plain pass says of them."""

import json

import torch
from small_decoders import small_decoder

from piclip import FewShotSegmenter, Support
from piclip.decoders.views import laid_back

SIZE = 49
"""Side of what the decoders see."""


def saved(folder, name="pfenet", prior="piclip", sees="augmented"):
    """The folder of a training that ended with random weights."""
    small_decoder(name, prior=prior).save_pretrained(folder / "decoder")
    recipe = {
        "clip": {"model": "builtin", "dtype": "float32", "sees": sees},
        "augmentation": {"size": SIZE},
    }
    record = {"format": 1, "recipe": recipe}
    (folder / "decoder" / "training.json").write_text(json.dumps(record))
    return folder


def load(folder, **options):
    """A segmenter with the decoder of a folder."""
    return FewShotSegmenter.from_pretrained(folder, device="cpu", **options)


def supports(episode, count=None):
    """The labelled images of an episode."""
    return [Support(s.image, s.mask(episode.class_index)) for s in episode.supports[:count]]


def probabilities(scorer, episode, others=()):
    """What a decoder makes of an episode, one step after the other."""
    contrast = [scorer.maker.texts(name) for name in others]
    labelled = [(s.image, s.mask(episode.class_index)) for s in episode.supports]
    queries = scorer.encode_queries([episode.query.image])
    logits = scorer.logits(queries, scorer.fit(episode.name, labelled), contrast)[0]
    own = laid_back(logits, episode.query.image.shape[:2])
    return torch.sigmoid(own[1] - own[0]).numpy()
