"""What the tests of the evaluation share: scenes, the built-in model and a small decoder."""

from functools import partial

import pytest
import torch

from piclip import FewShotSegmenter
from piclip.clip.cache import MemoryCache
from piclip.datasets.catalogue import open_dataset
from piclip.datasets.few_shot import FewShotView
from piclip.decoders.clip_priors import PriorMaker
from piclip.decoders.networks import build_decoder
from piclip.decoders.scorer import DecoderScorer
from piclip.evaluation.predictor import Predictor
from piclip.training_free.scorer import TrainingFreeScorer

load_builtin = partial(FewShotSegmenter.from_pretrained, "builtin", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def view():
    dataset = open_dataset("scenes", train_images=60, val_images=60)
    return FewShotView(dataset, fold=0, split="val", classes="novel")


@pytest.fixture(scope="session")
def segmenter():
    return load_builtin()


@pytest.fixture(scope="session")
def published(segmenter):
    """PI-CLIP's own priors of the built-in model."""
    return FewShotSegmenter(TrainingFreeScorer(segmenter.encoder, evidence="published"))


@pytest.fixture(scope="session")
def training_free():
    return Predictor.load(load_builtin)


@pytest.fixture(scope="session")
def decoder_in_memory(segmenter, small_pfenet):
    """Wraps a small PFENet with random weights, and the CLIP that it needs, as a predictor."""

    def build(prior, size=65, **priors):
        cache = MemoryCache()
        maker = PriorMaker(segmenter.encoder, cache=cache, **priors) if prior == "piclip" else None
        return Predictor(FewShotSegmenter(DecoderScorer(small_pfenet(prior), maker, size=size)))

    return build


@pytest.fixture(scope="session")
def small_pfenet():
    """Builds a PFENet with random weights, always the same."""

    def build(prior):
        torch.manual_seed(0)
        return build_decoder("pfenet", backbone="tiny", prior=prior, width=16)

    return build
