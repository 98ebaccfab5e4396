"""What the tests of the evaluation share: scenes, the built-in model and a small decoder."""

import pytest
import torch

from piclip import FewShotSegmenter
from piclip.datasets.catalogue import open_dataset
from piclip.datasets.few_shot import FewShotView
from piclip.decoders.networks import build_decoder
from piclip.evaluation.predictors import TrainingFree


@pytest.fixture(scope="session")
def view():
    dataset = open_dataset("scenes", train_images=60, val_images=60)
    return FewShotView(dataset, fold=0, split="val", classes="novel")


@pytest.fixture(scope="session")
def segmenter():
    return FewShotSegmenter.from_pretrained("builtin", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def training_free(segmenter):
    return TrainingFree(segmenter)


@pytest.fixture(scope="session")
def small_pfenet():
    """Builds a PFENet with random weights, always the same."""

    def build(prior):
        torch.manual_seed(0)
        return build_decoder("pfenet", backbone="tiny", prior=prior, width=16)

    return build
