"""Photographs: which episodes are drawn, and what is counted in them."""

import importlib.util
import json
import sys
from functools import partial

import numpy as np
import pytest

from photographs import write_photographs
from piclip import FewShotSegmenter
from piclip.errors import DatasetError, UsageError
from piclip.evaluation.benchmarks import quality
from piclip.evaluation.benchmarks.photos import PhotoQuestions, run_photo_benchmark
from piclip.evaluation.benchmarks.quality import ABSENT, MODES, NAMED, OWN, WRONG, Answer, MapTask
from piclip.evaluation.metrics import THRESHOLDS
from piclip.evaluation.predictor import Predictor, query_map

VOC_START = ("aeroplane", "bicycle", "bird")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photos") / "voc", classes=3, images=5)


def questions_of(folder, only=None, episodes=6, seed=0):
    return PhotoQuestions(folder, only, episodes=episodes, seed=seed, calibration_episodes=3)


def test_episodes_of_each_mode_hold_what_it_says(folder):
    questions = questions_of(folder)
    for mode in MODES:
        asked = questions.ask(mode, 2)
        assert [one.asked for one in asked] == [0, 1, 2, 0, 1, 2]
        for number, one in enumerate(asked):
            assert len({one.query, *one.supports}) == 3
            assert one.query.startswith(f"{one.asked}_")
            assert all(key.startswith(f"{one.shown}_") for key in one.supports)
            assert (one.shown != one.asked) == (mode == WRONG)
            wanted = f"thing{number % 3}" if mode == "nameless" else VOC_START[one.asked]
            assert one.name == wanted
            assert (one.absent is None) == (mode != ABSENT)
            assert one.absent is None or not one.absent.startswith(f"{one.asked}_")
    assert questions.ask(NAMED, 2) == questions_of(folder).ask(NAMED, 2)
    assert questions.ask(NAMED, 2) != questions_of(folder, seed=1).ask(NAMED, 2)
    assert questions.ask("calibration", 2) != questions.ask(NAMED, 2)[:3]


def test_a_list_restricts_the_images(folder):
    only = {f"{c}_{n}" for c in (0, 2) for n in range(4)}
    asked = questions_of(folder, only).ask(ABSENT, 1)
    assert {key for one in asked for key in (one.query, *one.supports, one.absent)} <= only
    assert {one.name for one in asked} == {"aeroplane", "bird"}
    with pytest.raises(UsageError, match="no image 7_7"):
        questions_of(folder, {"7_7"})
    with pytest.raises(DatasetError, match="8 images each"):
        questions_of(folder).ask(NAMED, 5)


def test_counts_are_those_of_a_slow_formula(folder, segmenter):
    questions, predictor = questions_of(folder), Predictor(segmenter)
    asked = questions.ask(ABSENT, 1)[:2]
    answers = MapTask(questions.load, tuple(OWN.values())).count(predictor, asked)
    for one, answer in zip(asked, answers, strict=True):
        episode, query = episode_of(questions, one), questions.load(one.query, one.asked)
        results = [predictor.segment(episode)]
        counted = query.class_map != 255
        truth = query.class_map[counted] == one.asked + 1
        for row, name in enumerate(OWN.values()):
            for at, threshold in enumerate(THRESHOLDS):
                inside = query_map(results[0], name) >= np.float32(threshold)
                inside = (results[0].mask if name == "final" else inside)[counted]
                expected = ((inside & truth).sum(), (inside | truth).sum())
                assert tuple(answer.counts[row, :, at]) == expected
        assert answer.masked[0] == results[0].mask.mean()
        assert answer.presence[0] == results[0].presence[0]
        assert len(answer.masked) == len(answer.presence) == 2


def episode_of(questions, one):
    """The episode in the dataset's own labels."""
    from piclip.datasets.few_shot import Episode

    supports = tuple(questions.load(key, one.shown) for key in one.supports)
    return Episode(one.name, one.asked, supports, questions.load(one.query, one.asked))


def test_figures_are_accumulated_per_class_and_drawn_again_within_it():
    rng = np.random.default_rng(3)
    answers = []
    for number in range(20):
        union = rng.integers(50, 100, (1, 1, 3))
        counts = np.concatenate([rng.integers(0, 50, (1, 1, 3)), union], axis=1)
        answers.append(Answer(number % 3, counts, (0.5,), ()))
    by_class = [[a.counts[0] for a in answers if a.asked == c] for c in range(3)]
    slow = np.mean([sum(c[0] for c in own) / sum(c[1] for c in own) for own in by_class], axis=0)
    assert np.allclose(quality.miou(answers), 100 * slow)
    low, high = quality.interval(answers, at=1)
    assert low < quality.miou(answers)[1] < high
    assert quality.interval(answers[:3]) == pytest.approx([quality.miou(answers[:3])[0]] * 2)


def test_a_vit_without_names_has_rows_of_its_own_alone(folder, shared):
    load = partial(FewShotSegmenter.from_pretrained, shared / "models" / "deit-tiny", device="cpu")
    report = run_photo_benchmark(
        Predictor.load(load), folder, episodes=2, shots=(1,), calibration_episodes=1
    )
    assert [row.map for row in report.rows] == list(OWN)
    assert report.modes[0].miou == report.modes[1].miou  # a name is a label and no more
    absent = report.modes[-1]
    assert 0 <= absent.absent_masked <= 1 and 0 <= absent.present_lost <= 1
    assert 0 <= absent.presence_auc <= 1
    content = json.loads(json.dumps(report.to_json()))
    assert content["data"] == "voc-photos" and content["model"].endswith("deit-tiny")


@pytest.mark.slow
def test_the_figures_of_the_shared_protocol_come_out(shared, monkeypatch, capsys):
    data, model = shared / "data" / "voc-photos", shared / "models" / "deit-tiny"
    script = shared / "tools" / "photo_bench.py"
    if not (data.is_dir() and script.is_file()):
        pytest.skip("the photographs of ../shared and their protocol are not here")
    spec = importlib.util.spec_from_file_location("photo_bench", script)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    predictor = Predictor.load(partial(FewShotSegmenter.from_pretrained, model, device="cpu"))
    report = run_photo_benchmark(predictor, data, episodes=12, shots=(1,), calibration_episodes=1)
    monkeypatch.setattr(sys, "__stdout__", sys.stdout)
    for row in report.modes:
        options = ["--data", data, "--model", model, "--episodes", "12", "--mode", row.mode]
        monkeypatch.setattr(sys, "argv", ["photo_bench.py", *map(str, options)])
        bench.main()
        found = json.loads(capsys.readouterr().out)
        if row.mode == ABSENT:
            assert round(row.absent_masked, 3) == found["absent_masked"]
            assert round(row.present_lost, 3) == found["present_lost"]
        else:
            assert row.miou == pytest.approx(found["default"], abs=0.1)
