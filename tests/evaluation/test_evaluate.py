from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from piclip import FewShotSegmenter, Support
from piclip.clip_priors import PriorMaker
from piclip.datasets.episode_files import episodes_hash, read_episodes, write_episodes
from piclip.datasets.few_shot import FewShotView
from piclip.datasets.registry import open_dataset
from piclip.decoders.registry import build_decoder
from piclip.errors import ModelError, UsageError
from piclip.evaluation import evaluate as evaluation
from piclip.evaluation.decoder_predictor import Checkpoint, DecoderPredictor, laid_back
from piclip.evaluation.evaluate import EpisodeProtocol, count_episodes, evaluate
from piclip.evaluation.memory_cache import MemoryCache
from piclip.evaluation.metrics import ClassIoU
from piclip.evaluation.predictors import (
    TrainingFree,
    blind,
    choose_threshold,
    combined_map,
    prior_name,
)
from piclip.evaluation.results import read_result

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def view():
    dataset = open_dataset("scenes", train_images=60, val_images=60)
    return FewShotView(dataset, fold=0, split="val", classes="novel")


@pytest.fixture(scope="module")
def segmenter():
    return FewShotSegmenter.from_pretrained("builtin", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def training_free(segmenter):
    return TrainingFree(segmenter)


def _decoder(prior="imagenet"):
    torch.manual_seed(0)
    return build_decoder("pfenet", backbone="tiny", prior=prior, width=16).eval()


@pytest.fixture(scope="module")
def decoder(segmenter):
    maker = PriorMaker(segmenter.encoder, cache=MemoryCache())
    return DecoderPredictor(_decoder("piclip"), maker, size=65)


class Oracle:
    """Answers with where the class's most common colour is not: any fixed rule will do."""

    method, reload = None, None

    def predict(self, episodes, others):
        self.seen = [(episode, rivals) for episode, rivals in zip(episodes, others, strict=True)]
        return [episode.query.image.mean(axis=2) > 120 for episode in episodes]


@pytest.mark.parametrize("name", ["training_free", "decoder"])
def test_order_batch_and_workers_do_not_change_a_count(name, view, request):
    predictor = request.getfixturevalue(name)
    keys = [view.episode(0, index, 2) for index in range(5)]
    expected = count_episodes(predictor, view, keys, batch_size=1)
    shuffled = [keys[i] for i in np.random.default_rng(0).permutation(len(keys))]
    for order, batch_size in ((keys, 5), (shuffled, 3)):
        counts = count_episodes(predictor, view, order, batch_size=batch_size)
        assert np.array_equal(counts.intersection, expected.intersection)
        assert np.array_equal(counts.union, expected.union)
    assert expected.union[:, 1].sum() > 0


def test_processes_count_the_same(training_free, view):
    protocol = EpisodeProtocol(shots=1, seeds=(0,), episodes=5)
    alone = evaluate(training_free, view, protocol, batch_size=2)
    shared = evaluate(training_free, view, protocol, workers=2)
    assert shared.per_seed == alone.per_seed


def test_the_counts_are_those_of_a_plain_loop(training_free, segmenter, view):
    keys = [view.episode(3, index, 1) for index in range(4)]
    own = FewShotSegmenter(segmenter.encoder)
    inter, union = {}, {}
    for key in keys:
        support, query = view.dataset.sample(key.supports[0]), view.dataset.sample(key.query)
        name = view.dataset.class_names[key.class_index]
        own.memories.clear()
        own.fit([Support(support.image, support.mask(key.class_index))], name=name)
        found = own.predict([query.image])[0].mask_of(name)
        truth = query.class_map == key.class_index + 1
        inter[name] = inter.get(name, 0) + int((found & truth).sum())
        union[name] = union.get(name, 0) + int((found | truth).sum())
    counts = count_episodes(training_free, view, keys)
    for row, name in enumerate(counts.classes):
        assert counts.intersection[row, 1] == inter.get(name, 0)
        assert counts.union[row, 1] == union.get(name, 0)


def test_predictors_never_see_the_truth_and_rivals_only_with_oracle(view):
    keys = [view.episode(0, index, 1) for index in range(8)]
    for candidates in ("target", "oracle"):
        predictor = Oracle()
        count_episodes(predictor, view, keys, candidates=candidates)
        for key, (episode, rivals) in zip(keys, predictor.seen, strict=True):
            assert not episode.query.class_map.any()
            assert episode.supports[0].mask(key.class_index).any()
            truth = view.dataset.sample(key.query).class_map
            shown = {view.dataset.class_names[v - 1] for v in np.unique(truth) if 0 < v < 255}
            expected = shown - {episode.name} if candidates == "oracle" else set()
            assert set(rivals) == expected


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


def test_prior_rows_threshold_the_mean_of_their_maps(segmenter, view):
    episode = view.load(view.episode(0, 0, 1))
    predictor = TrainingFree(segmenter, prior="vtp+vvp", threshold=0.4)
    priors = predictor.segment(episode).priors
    mean = torch.from_numpy((priors.visual_text + priors.visual_visual) / 2)[None]
    plain = F.interpolate(mean, size=(128, 128), mode="bilinear", align_corners=False)[0, 0].numpy()
    assert np.allclose(predictor.score(episode), plain, atol=1e-6)
    assert np.array_equal(predictor.predict([episode], [()])[0], plain >= 0.4)
    single = combined_map(priors, "vvp", (128, 128))
    assert single.shape == (128, 128)
    assert predictor.method.prior == "vtp+vvp"
    assert (predictor.method.text, predictor.method.visual) == ("plain", "plain")
    with pytest.raises(UsageError, match="no prior 'x'"):
        TrainingFree(segmenter, prior="x")


def test_rivals_are_called_what_the_dataset_calls_them(segmenter, view):
    episode = view.load(view.episode(0, 0, 1))
    reworded = TrainingFree(segmenter, prior="vtp", wordings={"pottedplant": ("umbrella",)})
    told = reworded.score(episode, ["pottedplant"])
    plain = TrainingFree(segmenter, prior="vtp")
    assert np.array_equal(told, plain.score(episode, ["umbrella"]))
    assert not np.array_equal(told, plain.score(episode))


def test_the_threshold_is_the_best_of_base_episodes(segmenter, view):
    base = FewShotView(
        view.dataset,
        fold=0,
        split="train",
        classes="base",
        novel_pixels="background",
        minimum_images=2,
    )
    predictor = TrainingFree(segmenter, prior="vvp")
    chosen = choose_threshold(predictor, base, shots=1, episodes=3)
    names = [base.dataset.class_names[index] for index in base.classes]
    thresholds = sorted({chosen, 0.1, 0.5, 0.9})
    meter = ClassIoU(names, thresholds)
    for index in range(3):
        episode = base.load(base.episode(0, index, 1))
        truth = episode.query.mask(episode.class_index)
        meter.add(episode.name, predictor.score(blind(episode)), truth)
    assert meter.miou()[thresholds.index(chosen)] == meter.miou().max()


def test_weights_that_change_during_an_evaluation_are_noticed(training_free, view, monkeypatch):
    job = evaluation._Job(view, "target", 1)
    other = replace(training_free.method, clip={"name": "builtin", "sha256": "older"})
    monkeypatch.setattr(evaluation, "_worker", {})
    evaluation._start_worker(lambda: training_free, job, 1, other)
    with pytest.raises(ModelError, match="changed while"):
        evaluation._count_in_worker([view.episode(0, 0, 1)])
    evaluation._start_worker(lambda: training_free, job, 1, training_free.method)
    assert evaluation._count_in_worker([view.episode(0, 0, 1)]).seen.any()


def test_a_decoder_comes_back_from_its_folder_with_its_recipe(tmp_path, view):
    run = tmp_path / "run"
    original = _decoder("piclip")
    original.save_pretrained(run / "decoder")
    (run / "recipe.yaml").write_text(
        "fold: 0\nclip: {model: builtin, text: none, visual: refined, dtype: float32}\n"
        "augmentation: {size: 49}\n"
    )
    checkpoint = Checkpoint.find(run)
    assert checkpoint == Checkpoint.find(run / "decoder")
    predictor = DecoderPredictor.load(checkpoint, {}, device="cpu")
    method = predictor.method
    assert (method.method, method.prior, method.backbone) == ("pfenet", "vvp+pir", "tiny")
    assert method.settings == {"size": 49, "clip_sees": "augmented"}
    assert method.recipe["fold"] == 0
    encoder = predictor.maker.encoder
    maker = PriorMaker(encoder, text="none", visual="refined", cache=MemoryCache())
    same = DecoderPredictor(original, maker, size=49)
    episodes = [blind(view.load(view.episode(0, index, 1))) for index in range(2)]
    assert torch.equal(predictor.logits(episodes, [(), ()]), same.logits(episodes, [(), ()]))
    again = predictor.reload()
    assert again.method == method


def test_a_decoder_without_clip_needs_no_maker_and_one_with_clip_does(view):
    predictor = DecoderPredictor(_decoder("imagenet"), size=65)
    assert predictor.method.clip is None
    assert count_episodes(predictor, view, [view.episode(0, 0, 1)]).seen.sum() == 1
    with pytest.raises(UsageError, match="PriorMaker"):
        DecoderPredictor(_decoder("piclip"))


def test_folders_without_a_decoder_are_refused(tmp_path):
    with pytest.raises(ModelError, match="no folder"):
        Checkpoint.find(tmp_path / "nothing")
    with pytest.raises(ModelError, match=r"config\.json"):
        Checkpoint.find(tmp_path)


@pytest.mark.parametrize("size", [(40, 64), (64, 40), (64, 64), (100, 64)])
def test_logits_go_back_to_where_the_image_was(size):
    # A half plane in the image, seen in a view of 64 x 64: the longer side fills it.
    side, longest = 64, max(size)
    scale = side / longest
    rows = (torch.arange(side) + 0.5 - side / 2) / scale + size[0] / 2  # image rows of the view
    logits = torch.zeros(2, side, side)
    logits[1] = (rows[:, None] - 0.5 * size[0] - 4).expand(side, side)
    scores = laid_back(logits, size)
    found = (scores[1] > scores[0]).numpy()
    expected = (np.arange(size[0]) + 0.5) > 0.5 * size[0] + 4
    assert found.shape == size
    inner = slice(2, -2)
    assert np.array_equal(found[inner, 0], expected[inner])
    assert (found == found[:, :1]).all()


def test_the_memory_cache_forgets_the_oldest():
    cache = MemoryCache(limit=3 * 40)
    for number in range(4):
        cache.put(str(number), {"x": torch.full((10,), float(number))})
        cache.get("0")
    assert cache.get("1") is None
    assert torch.equal(cache.get("0")["x"], torch.zeros(10))
    assert cache.get("3") is not None


def test_names_of_priors():
    assert prior_name("refined", "plain") == "piclip"
    assert prior_name("plain", "none") == "vtp"
    assert prior_name("none", "none") == "none"
    assert prior_name("refined", "raw") == "piclip"
    assert prior_name("none", "raw") == "vvp"


@pytest.mark.parametrize(
    "wrong", [{"shots": 0}, {"episodes": 0}, {"seeds": ()}, {"seeds": (1, 1)}, {"candidates": "x"}]
)
def test_protocols_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        EpisodeProtocol(**wrong)
