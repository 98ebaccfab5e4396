import os
import signal
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from piclip import FewShotSegmenter, Support
from piclip.datasets.catalogue import open_dataset
from piclip.datasets.episode_files import episodes_hash, read_episodes, write_episodes
from piclip.datasets.few_shot import EpisodeKeys, FewShotView
from piclip.datasets.protocols import PFENET
from piclip.errors import ModelError, OutputError, PiclipError, UsageError
from piclip.evaluation import evaluate as evaluation
from piclip.evaluation.evaluate import Counter, EpisodeProtocol, Task, evaluate
from piclip.evaluation.records import Method, read_result
from piclip.results import Segmentation
from sentences import one_sentence

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def decoder(decoder_in_memory):
    return decoder_in_memory("piclip")


class Witness:
    """Keeps what it is asked; answers with the bright pixels, for any fixed rule will do."""

    prior, least_score, reload = None, 0.5, None

    def __init__(self):
        self.seen = []

    def segment(self, episode, contrast):
        self.seen.append((episode, contrast))
        bright = episode.query.image.mean(axis=2) > 120
        scores = bright[None].astype(np.float32)
        return Segmentation((episode.name,), bright.astype(np.uint8), scores, None, None, "x")


def counted(predictor, view, keys, candidates="target"):
    return Task(view, (predictor.least_score,), candidates).count(predictor, keys)


@pytest.mark.parametrize("name", ["training_free", "decoder"])
def test_order_and_neighbours_do_not_change_a_count(name, view, request):
    predictor = request.getfixturevalue(name)
    keys = [view.episode(0, index, 2) for index in range(5)]
    keys.append(EpisodeKeys(keys[0].class_index, "val-59", keys[0].supports))
    expected = counted(predictor, view, keys[:1])
    for key in keys[1:]:
        expected.merge(counted(replace(predictor), view, [key]))  # fits anew
    shuffled = [keys[i] for i in np.random.default_rng(0).permutation(len(keys))]
    told = []
    task = Task(view, (predictor.least_score,))
    together = Counter(predictor, task.count).count(keys, told.append)
    assert sum(told) == len(keys)
    for counts in (together, counted(predictor, view, shuffled)):
        assert np.array_equal(counts.intersection, expected.intersection)
        assert np.array_equal(counts.union, expected.union)
    assert expected.union[:, 1].sum() > 0


@pytest.mark.slow
def test_processes_count_the_same(training_free, view):
    protocol = EpisodeProtocol(shots=1, seeds=(0,), episodes=5)
    alone = evaluate(training_free, view, protocol)
    shared = evaluate(training_free, view, protocol, workers=2)
    assert shared.per_seed == alone.per_seed


def test_the_counts_are_those_of_a_plain_loop(training_free, segmenter, view):
    keys = [view.episode(3, index, 1) for index in range(4)]
    own = FewShotSegmenter(segmenter.encoder)
    inter, union = {}, {}
    for key in keys:
        support, query = view.dataset.sample(key.supports[0]), view.dataset.sample(key.query)
        name = view.dataset.class_names[key.class_index]
        own = own.unfitted()
        own.fit([Support(support.image, support.mask(key.class_index))], name=name)
        found = own.predict([query.image])[0].mask_of(name)
        truth = query.class_map == key.class_index + 1
        inter[name] = inter.get(name, 0) + int((found & truth).sum())
        union[name] = union.get(name, 0) + int((found | truth).sum())
    counts = counted(training_free, view, keys)
    for row, name in enumerate(counts.classes):
        assert counts.intersection[row, 1] == inter.get(name, 0)
        assert counts.union[row, 1] == union.get(name, 0)


def test_predictors_never_see_the_truth_and_contrast_only_with_oracle(view):
    keys = [view.episode(0, index, 1) for index in range(8)]
    for candidates in ("target", "oracle"):
        predictor = Witness()
        counted(predictor, view, keys, candidates)
        for key, (episode, contrast) in zip(keys, predictor.seen, strict=True):
            assert not episode.query.class_map.any()
            assert episode.supports[0].mask(key.class_index).any()
            truth = view.dataset.sample(key.query).class_map
            shown = {view.dataset.class_names[v - 1] for v in np.unique(truth) if 0 < v < 255}
            expected = shown - {episode.name} if candidates == "oracle" else set()
            assert set(contrast) == expected


def test_the_record_says_what_was_run_and_a_second_run_goes_on(training_free, view, tmp_path):
    output = tmp_path / "result.json"
    protocol = EpisodeProtocol(shots=1, seeds=(0,), episodes=3)
    first = evaluate(training_free, view, protocol, output=output, command="piclip evaluate")
    assert read_result(output) == first
    keys = [view.episode(0, index, 1) for index in range(3)]
    assert first.per_seed[0].episodes_hash == episodes_hash(keys, view.dataset.class_names)
    assert (first.method, first.dataset, first.fold, first.folds) == (
        *("training-free", "scenes", 0),
        4,
    )

    calls = []
    more = EpisodeProtocol(shots=1, seeds=(0, 1), episodes=3)
    both = evaluate(
        training_free, view, more, output=output, progress=lambda *step: calls.append(step)
    )
    assert both.per_seed[0] == first.per_seed[0]
    assert [result.seed for result in both.per_seed] == [0, 1]
    assert calls == [(3, 6), (6, 6)]
    fresh = evaluate(training_free, view, more)
    assert fresh.per_seed == both.per_seed


def test_a_file_of_another_evaluation_is_not_overwritten(training_free, view, tmp_path):
    output = tmp_path / "result.json"
    evaluate(training_free, view, EpisodeProtocol(1, (0,), 2), output=output)
    before = output.read_bytes()
    with pytest.raises(UsageError, match="episodes 2 instead of 3"):
        evaluate(training_free, view, EpisodeProtocol(1, (0,), 3), output=output)
    other = FewShotView(open_dataset("scenes", val_images=50), fold=0, split="val", classes="novel")
    with pytest.raises(UsageError, match="other episodes of seed 0"):
        evaluate(training_free, other, EpisodeProtocol(1, (0,), 2), output=output)
    assert output.read_bytes() == before


def test_an_output_that_cannot_be_written_is_told_before_the_first_episode(view, tmp_path):
    (tmp_path / "file").write_text("x")
    predictor = Witness()
    predictor.method = Method(method="witness", prior="none")
    for output, words in (
        (tmp_path / "file" / "r.json", "a file is where a folder should be"),
        (tmp_path, "a folder is where the file should be"),
    ):
        with pytest.raises(OutputError, match=words):
            evaluate(predictor, view, EpisodeProtocol(1, (0,), 2), output=output)
    assert not predictor.seen


def test_episodes_of_a_file_are_the_ones_asked(training_free, view, tmp_path):
    path = tmp_path / "episodes.json"
    state = write_episodes(path, view, seed=2, count=3, shots=1)
    result = evaluate(training_free, view, EpisodeProtocol.of_file(read_episodes(path)))
    drawn = evaluate(training_free, view, EpisodeProtocol(1, (2,), 3))
    assert result.per_seed == drawn.per_seed
    assert result.per_seed[0].episodes_hash == state
    elsewhere = FewShotView(view.dataset, fold=1, split="val", classes="novel")
    with pytest.raises(UsageError, match="fold 0, not 1"):
        evaluate(training_free, elsewhere, EpisodeProtocol.of_file(read_episodes(path)))


def test_a_protocol_says_how_an_answer_is_measured(view):
    keys = PFENET.episodes(view, 0, 6, 2)
    rules = replace(PFENET, side=50, ignoring=())
    counts = Task(view, (0.5,), rules=rules).count(Witness(), keys)
    inter, union = np.zeros((2, len(view.classes))), np.zeros((2, len(view.classes)))
    for key in keys:
        query = view.dataset.sample(key.query)
        bright = torch.from_numpy(query.image.mean(axis=2) > 120).float()[None, None]
        found = F.interpolate(bright, (50, 50), mode="bilinear", align_corners=True) >= 0.5
        truth = torch.from_numpy(query.class_map == key.class_index + 1).float()[None, None]
        inside = F.interpolate(truth, (50, 50), mode="nearest") == 1
        row = view.classes.index(key.class_index)
        for place, (one, other) in enumerate([(~found, ~inside), (found, inside)]):
            inter[place, row] += int((one & other).sum())
            union[place, row] += int((one | other).sum())
    assert np.array_equal(counts.intersection[:, :, 0], inter.T)
    assert np.array_equal(counts.union[:, :, 0], union.T)


def test_the_record_names_the_protocol_and_asks_its_episodes(training_free, view, tmp_path):
    asked = EpisodeProtocol(1, (510,), 2, rules=PFENET)
    result = evaluate(training_free, view, asked, output=tmp_path / "r.json")
    assert result.protocol == read_result(tmp_path / "r.json").protocol == "pfenet"
    keys = PFENET.episodes(view, 510, 2, 1)
    assert result.per_seed[0].episodes_hash == episodes_hash(keys, view.dataset.class_names)
    write_episodes(tmp_path / "e.json", view, 510, 2, 1, PFENET)
    again = evaluate(
        training_free, view, EpisodeProtocol.of_file(read_episodes(tmp_path / "e.json"))
    )
    assert (again.protocol, again.per_seed) == ("pfenet", result.per_seed)
    # Two episodes show two classes at most; by this protocol the others count as 0.
    seen = [iou for iou in result.per_class.values() if iou is not None]
    assert result.miou[0] == pytest.approx(sum(seen) / len(view.classes))
    with pytest.raises(UsageError, match='protocol "pfenet" instead of "ours"'):
        evaluate(training_free, view, EpisodeProtocol(1, (510,), 2), output=tmp_path / "r.json")


def test_weights_that_change_during_an_evaluation_are_noticed(training_free, view, monkeypatch):
    count = Task(view, (training_free.least_score,)).count
    monkeypatch.setattr(evaluation, "_counting", {})
    evaluation._start_counting(lambda: training_free, count, "older")
    with pytest.raises(ModelError, match="changed while"):
        evaluation._count_in_worker([view.episode(0, 0, 1)])
    fingerprint = training_free.segmenter.scorer.fingerprint()
    evaluation._start_counting(lambda: training_free, count, fingerprint)
    assert evaluation._count_in_worker([view.episode(0, 0, 1)]).seen.any()


def killed(keys):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_told_in_one_sentence(view, monkeypatch):
    monkeypatch.setattr(evaluation, "_count_in_worker", killed)
    counter = Counter(Witness(), Task(view).count)
    counter._pool = ProcessPoolExecutor(1, get_context("fork"))
    with counter, pytest.raises(PiclipError, match="process ended unexpectedly") as error:
        list(counter.parts([view.episode(0, 0, 1)]))
    one_sentence(error)


@pytest.mark.parametrize(
    "wrong", [{"shots": 0}, {"episodes": 0}, {"seeds": ()}, {"seeds": (1, 1)}, {"candidates": "x"}]
)
def test_protocols_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        EpisodeProtocol(**wrong)
