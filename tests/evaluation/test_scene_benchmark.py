import json
from dataclasses import replace

import numpy as np
import pytest

from piclip.datasets.scenes.glyphs import CLASS_NAMES
from piclip.datasets.scenes.scene_episodes import load_scenes, scene_episode, scene_keys
from piclip.errors import UsageError
from piclip.evaluation.benchmarks.quality import ABSENT, MAPS, MODES, NAMED, OWN, PUBLISHED, WRONG
from piclip.evaluation.benchmarks.scenes import SceneQuestions, run_scene_benchmark
from piclip.evaluation.predictor import Predictor, blind, query_map


@pytest.mark.slow
def test_rows_do_not_depend_on_the_number_of_workers(training_free):
    sizes = {"episodes": 3, "seeds": 2, "shots": (1,), "calibration_episodes": 2}
    alone = run_scene_benchmark(training_free, **sizes)
    calls = []
    shared = run_scene_benchmark(
        training_free, **sizes, workers=2, progress=lambda done, total: calls.append((done, total))
    )
    assert [row.map for row in alone.rows] == list(MAPS)
    for one, other in zip(alone.rows, shared.rows, strict=True):
        # Another number of threads rounds differently: a few pixels at a threshold may flip.
        assert one.miou == pytest.approx(other.miou, abs=0.5)
    # Two maps' segmenters on 2 + 6 episodes, and one on 3 of each other mode.
    assert calls[-1] == (25, 25)
    assert [row.mode for row in alone.modes] == list(MODES)
    assert alone.modes[0].miou == alone.rows[-1].miou
    content = json.loads(json.dumps(alone.to_json()))
    assert content["threshold_episodes"] == 2
    assert content["model"] == "builtin" and content["rows"][0]["shot"] == 1


def test_maps_are_of_the_query_and_leave_its_truth_alone(segmenter, published):
    episode = scene_episode(0, 4)

    def maps(asked):
        results = {name: Predictor(published).segment(asked) for name in PUBLISHED.values()}
        results |= {name: Predictor(segmenter).segment(asked) for name in OWN.values()}
        return {name: query_map(result, name) for name, result in results.items()}

    found = maps(episode)
    for score in found.values():
        assert score.shape == (128, 128) and score.min() >= 0 and score.max() <= 1
    assert len({score.tobytes() for score in found.values()}) == len(MAPS)
    again = maps(blind(episode))
    assert all(np.array_equal(found[name], again[name]) for name in found)


def test_scenes_of_each_mode_hold_what_it_says():
    questions = SceneQuestions(episodes=3, seeds=2, calibration_episodes=4)
    assert len(questions.ask(NAMED, 2)) == 6 and len(questions.ask("calibration", 2)) == 4
    for mode in MODES:
        for asked in questions.ask(mode, 2)[:3]:
            holds = [questions.load(key, asked.shown).mask(asked.shown) for key in asked.supports]
            assert len(holds) == 2 and all(mask.any() for mask in holds)
            assert questions.load(asked.query, asked.asked).mask(asked.asked).any()
            assert (asked.shown != asked.asked) == (mode == WRONG)
            assert (asked.name == CLASS_NAMES[asked.asked]) == (mode != "nameless")
            assert (asked.absent is not None) == (mode == ABSENT)
            if asked.absent is not None:
                assert not questions.load(asked.absent, None).mask(asked.asked).any()


def test_no_two_scenes_of_episodes_share_a_key():
    keys = [
        scene_keys(seed, index, 2, calibration=calibration)
        for seed in (0, 1)
        for index in (0, 1, 20)
        for calibration in (False, True)
    ]
    scenes = {key: None for one in keys for key in (one.query, *one.supports)}
    assert len(scenes) == 3 * len(keys)
    drawn = [load_scenes(one) for one in keys[:3]]
    images = [sample.image for one in drawn for sample in (one.query, *one.supports)]
    assert len({image.tobytes() for image in images}) == 9


@pytest.mark.parametrize("nothing", [{"episodes": 0}, {"workers": 0}, {"shots": (0,)}])
def test_nothing_to_measure_is_refused(training_free, nothing):
    with pytest.raises(UsageError, match="1 or more"):
        run_scene_benchmark(training_free, **nothing)


def test_a_trained_decoder_has_no_maps_to_measure(decoder_in_memory):
    with pytest.raises(UsageError, match="without training only"):
        run_scene_benchmark(replace(decoder_in_memory("none")), episodes=1)
