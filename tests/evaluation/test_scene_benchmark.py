import json

import numpy as np
import pytest

from piclip import FewShotSegmenter
from piclip.datasets.episodes import Episode, scene_episode
from piclip.datasets.scenes import Scene
from piclip.errors import UsageError
from piclip.evaluation.benchmarks.scenes import MAPS, episode_maps, run_scene_benchmark


@pytest.fixture(scope="module")
def segmenter():
    return FewShotSegmenter.from_pretrained("builtin", device="cpu")


@pytest.mark.slow
def test_rows_do_not_depend_on_the_number_of_workers(segmenter):
    sizes = {"episodes": 3, "seeds": 2, "shots": (1,), "calibration_episodes": 2}
    alone = run_scene_benchmark(segmenter, **sizes)
    calls = []
    shared = run_scene_benchmark(
        segmenter, **sizes, workers=2, progress=lambda done, total: calls.append((done, total))
    )
    assert [row.map for row in alone.rows] == list(MAPS)
    for one, other in zip(alone.rows, shared.rows, strict=True):
        # Another number of threads rounds differently: a few pixels at a threshold may flip.
        assert one.miou == pytest.approx(other.miou, abs=0.5)
    assert calls[-1] == (8, 8)
    content = json.loads(json.dumps(alone.to_json()))
    assert content["threshold_episodes"] == 2
    assert content["model"] == "builtin" and content["rows"][0]["shot"] == 1


def test_maps_are_of_the_query_and_leave_its_truth_alone(segmenter):
    episode = scene_episode(0, 4)
    maps = episode_maps(FewShotSegmenter(segmenter.encoder), episode)
    assert set(maps) == set(MAPS)
    for score in maps.values():
        assert score.shape == (128, 128) and score.min() >= 0 and score.max() <= 1
    truthless = Scene(episode.query.image, episode.query.class_map * 0, "")
    blank = Episode(episode.name, episode.supports, truthless)
    again = episode_maps(FewShotSegmenter(segmenter.encoder), blank)
    assert all(np.array_equal(maps[name], again[name]) for name in MAPS)


def test_nothing_to_measure_is_refused(segmenter):
    with pytest.raises(UsageError, match="1 or more"):
        run_scene_benchmark(segmenter, episodes=0)
