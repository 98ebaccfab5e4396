"""What leaving out small parts, all but the largest, and holes does to masks of photographs.

    python benchmarks/cleaning.py --data VOC --list benchmarks/photos-choose.txt \
        --model facebook/deit-tiny-patch16-224 [--episodes N] [--shots K] [--output FILE]

Episodes as of ``piclip benchmark photos`` (mode "named"); each answer is cleaned in every way, and
the parts (pixels that touch at sides or corners) are counted.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
from scipy import ndimage

from piclip import FewShotSegmenter
from piclip.datasets.dataset import Sample
from piclip.datasets.few_shot import Episode
from piclip.datasets.file_dataset import read_lines
from piclip.evaluation.benchmarks.photos import PhotoQuestions
from piclip.evaluation.benchmarks.quality import NAMED
from piclip.evaluation.metrics import FewShotIoU
from piclip.evaluation.predictor import Predictor, blind, truth_of
from piclip.formats.cleaning import TOUCHING

WAYS: dict[str, dict[str, object]] = {
    "nothing": {},
    **{f"min-area {share}": {"min_area": share} for share in ("0.02%", "0.05%", "0.1%")},
    **{f"min-area {share}": {"min_area": share} for share in ("0.2%", "0.5%", "1%")},
    "fill-holes": {"fill_holes": True},
    "largest": {"largest": True},
}


def measure(predictor: Predictor, questions: PhotoQuestions, shots: int) -> list[dict[str, object]]:
    """The mIoU and the number of parts in each way."""
    meters = {way: FewShotIoU(tuple(questions.class_names)) for way in WAYS}
    parts = dict.fromkeys(WAYS, 0)
    asked = questions.ask(NAMED, shots)
    classes = {question.name for question in asked}

    def narrowed(key: str, class_index: int) -> Sample:
        sample = questions.load(key, class_index)
        return Sample(f"{key} {class_index}", sample.image, truth_of(sample, class_index))

    for question in asked:
        supports = tuple(narrowed(key, question.shown) for key in question.supports)
        query = narrowed(question.query, question.asked)
        found = predictor.segment(blind(Episode(question.name, 0, supports, query)))
        for way, options in WAYS.items():
            cleaned = found.cleaned(**options)
            meters[way].add(question.name, cleaned.mask, query.class_map)
            parts[way] += ndimage.label(cleaned.mask, structure=TOUCHING)[1]
    kept = [questions.class_names.index(name) for name in sorted(classes)]
    return [
        {
            "way": way,
            "shots": shots,
            "miou": round(100 * float(np.mean(foreground(meters[way])[kept])), 2),
            "parts_per_image": round(parts[way] / len(asked), 2),
        }
        for way in WAYS
    ]


def foreground(meter: FewShotIoU) -> np.ndarray:
    """IoU of each class."""
    return meter.intersection[:, 1, 0] / np.maximum(meter.union[:, 1, 0], 1)


def main() -> None:
    """Measure, print, and write to the output."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--list", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    predictor = Predictor.load(partial(FewShotSegmenter.from_pretrained, options.model))
    questions = PhotoQuestions(
        options.data,
        frozenset(read_lines(options.list)),
        episodes=options.episodes,
        seed=0,
        calibration_episodes=1,
    )
    rows = [row for shots in options.shots for row in measure(predictor, questions, shots)]
    report = {"list": options.list.name, "episodes": options.episodes, "rows": rows}
    for row in rows:
        print(*row.values(), sep="\t")
    if options.output:
        options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
