"""How good a model in training is, on a few calibration episodes of the drawn world."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from piclip.clip.encoder import Encoder
from piclip.evaluation.benchmarks.quality import CALIBRATION, OWN, PUBLISHED, MapTask, miou
from piclip.evaluation.benchmarks.scenes import SceneQuestions
from piclip.evaluation.predictor import Predictor
from piclip.segmenter import FewShotSegmenter
from piclip.training_free.scorer import EvidenceName, TrainingFreeScorer
from world.world_model import ATTENTION_BLOCKS

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer

EPISODES = 60


def progress(model: CLIPModel, tokenizer: CLIPTokenizer) -> dict[str, float]:
    """MIoU in percent of every map with one support, each at its best threshold.

    The final mask is missing: its constants are not set before the training has ended.
    """
    frozen = copy.deepcopy(model).eval()
    encoder = Encoder(frozen, tokenizer, attention_blocks=ATTENTION_BLOCKS)
    questions = SceneQuestions(0, 1, EPISODES).ask(CALIBRATION, 1)
    found: dict[str, float] = {}
    evidences: tuple[tuple[EvidenceName, dict[str, str]], ...] = (
        ("published", PUBLISHED),
        ("contrast", {name: OWN[name] for name in ("contrast", "fused")}),
    )
    for evidence, maps in evidences:
        scorer = TrainingFreeScorer(encoder, evidence=evidence)
        task = MapTask(SceneQuestions(0, 1, EPISODES).load, tuple(maps.values()))
        with torch.inference_mode():
            answers = task.count(Predictor(FewShotSegmenter(scorer)), questions)
        found |= {name: round(float(miou(answers, row).max()), 1) for row, name in enumerate(maps)}
    return found
