"""The constants that labelled images give a model, on pictures where it is known what helps."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.testing import assert_close

from piclip import FewShotSegmenter, Support
from piclip.clip.checkpoints import save_model
from piclip.clip.encoder import Encoder
from piclip.clip.settings import SETTINGS_FILE, ModelSettings
from piclip.clip.towers import VisualTower
from piclip.errors import UsageError
from piclip.evaluation import calibration as module
from piclip.evaluation.benchmarks.scenes import SceneQuestions
from piclip.evaluation.calibration import (
    LOST,
    THRESHOLDS,
    Case,
    calibrate,
    cases_of,
    constants,
    save_calibrated,
)
from piclip.training_free import contrast
from piclip.training_free.contrast import ContrastEvidence
from piclip.training_free.scorer import TrainingFreeScorer
from sentences import one_sentence
from squares import Colours, picture, pillow

CHOSEN = {"blocks", "text_weight", "text_level", "presence", "lift", "threshold"}


@pytest.fixture(scope="module")
def encoder(model):
    return Encoder.from_pretrained(model, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
    )
    folder = tmp_path_factory.mktemp("vits") / "vit"
    save_model(transformers.ViTModel(config), None, ModelSettings(32, sharpness=2.5), folder)
    return folder


def square(number, name="red", shots=1):
    """A red square on the left; only the query has another on the right, which is not asked for."""
    supports = tuple(pillow((8 + number % 4 * 8, 4), seed=number + n) for n in range(shots))
    query, mask = picture((8 + number % 5 * 8, 4), seed=number + 50)
    other, elsewhere = picture((number % 5 * 8, 36), seed=number + 50)
    query[elsewhere] = other[elsewhere]
    return Case(name, supports, Image.fromarray(query), mask.astype(np.uint8))


CASES = [square(number, name) for number, name in enumerate(["red", "ruby"] * 2)]


@pytest.fixture
def mapped(monkeypatch):
    """Gives all names one map, with one value in the left half and one in the right half."""

    def use(left, right):
        def maps(encoding, texts, **_):
            found = torch.full((len(encoding.last), len(texts), *encoding.grid), right)
            found[..., : encoding.grid[1] // 2] = left
            return found, found

        monkeypatch.setattr(contrast, "text_maps", maps)

    return use


def test_a_name_that_tells_right_from_wrong_gets_a_weight(encoder, mapped):
    mapped(0.99, 0.01)
    scorer = TrainingFreeScorer(encoder, Colours(text_weight=0.0))
    passes = []
    found = calibrate(scorer, CASES, progress=lambda done, total: passes.append((done, total)))
    assert found.settings.text_weight > 0
    assert found.after > found.before + 10
    assert found.episodes == 4 and passes == [(done, 12) for done in range(1, 13)]


@pytest.mark.parametrize("map_of_names", [(0.5, 0.5), (0.3, 0.3), (0.01, 0.99)])
def test_a_name_that_tells_nothing_or_lies_gets_none(encoder, mapped, map_of_names):
    mapped(*map_of_names)
    assert calibrate(TrainingFreeScorer(encoder, Colours()), CASES).settings.text_weight == 0


def test_only_the_constants_change_and_not_in_the_scorer(encoder, mapped):
    mapped(0.99, 0.01)
    tower = Colours(sharpness=2.5)
    before, own = tower.settings, replace(tower.settings)
    scorer = TrainingFreeScorer(encoder, tower)
    found = calibrate(scorer, CASES[:2]).settings
    assert scorer.vision.settings is before and before == own
    assert encoder.settings == ModelSettings(64, attention_blocks=encoder.settings.attention_blocks)
    changed = {key for key, value in asdict(found).items() if value != asdict(own)[key]}
    assert changed <= CHOSEN and {"text_weight", "presence"} <= changed
    assert constants(found) == {key: getattr(found, key) for key in CHOSEN}


def test_blocks_are_of_the_upper_half_and_the_threshold_is_of_the_grid(vit_folder):
    tower = VisualTower.from_pretrained(vit_folder, device="cpu", dtype="float32")
    found = calibrate(TrainingFreeScorer(None, tower), CASES).settings
    assert set(found.blocks) <= {3, 4} and found.threshold in THRESHOLDS
    assert (found.text_weight, found.text_level) == (0.6, 0.0)  # there are no names to weigh
    assert found.sharpness == 2.5


def test_a_block_that_sees_the_object_is_taken(monkeypatch):
    tower = Colours()
    plain, tower.depth = tower.tokens, 6

    def tokens(pixels, blocks):
        seen = plain(pixels, [0])[0]
        return [seen if block == 5 else torch.rand_like(seen) - 0.5 for block in blocks]

    monkeypatch.setattr(tower, "tokens", tokens)
    assert 5 in calibrate(TrainingFreeScorer(None, tower), CASES).settings.blocks


def test_presence_refuses_one_in_fifty_of_the_images_that_hold_the_class(monkeypatch):
    scores = iter(np.random.default_rng(0).permutation(50).tolist() * 2)
    monkeypatch.setattr(
        module, "presence_scores", lambda *_: torch.tensor([[next(scores)]], dtype=torch.float32)
    )
    cases = [CASES[0]] * 50
    presence = calibrate(TrainingFreeScorer(None, Colours()), cases).settings.presence
    assert presence == pytest.approx(np.quantile(np.arange(50), LOST)) and LOST == 0.02
    assert sum(score < presence for score in range(50)) == 1


def test_presence_is_chosen_under_the_right_names_alone(encoder, monkeypatch):
    names = []
    learn = ContrastEvidence.learn

    def named(self, name, *rest):
        names.append(name)
        return learn(self, name, *rest)

    monkeypatch.setattr(ContrastEvidence, "learn", named)
    monkeypatch.setattr(
        module,
        "presence_scores",
        lambda seen, memories, *_: torch.tensor([[-9.0 if "thing" in memories[0].name else 3.0]]),
    )
    found = calibrate(TrainingFreeScorer(encoder, Colours()), CASES[:2])
    assert found.settings.presence == 3
    assert {"red", "ruby", "thing0", "thing1"} == set(names)


# The figure that decides.


def slow_miou(answers, threshold):
    """Class-accumulated, cell by cell; what is ignored has no part in its cell."""
    hits, unions = {}, {}
    for name, coverage, scores in answers:
        cells = torch.stack([*coverage, scores]).flatten(1).T
        for inside, outside, score in cells:
            chosen = score >= threshold
            hits[name] = hits.get(name, 0.0) + float(inside * chosen)
            unions[name] = unions.get(name, 0.0) + float(inside + outside * chosen)
    return 100 * np.mean([hits[name] / unions[name] for name in hits])


def answers_of(count, grid=(4, 5)):
    generator = torch.Generator().manual_seed(count)
    answers = []
    for number in range(count):
        parts = torch.rand(3, *grid, generator=generator)
        # Some scores lie just at a threshold.
        scores = (50 * torch.rand(grid, generator=generator)).round() / 50
        answers.append((f"class {number % 3}", parts[:2] / parts.sum(0), scores))
    return answers


def test_the_figure_is_the_class_accumulated_one_of_shares_of_cells():
    answers = answers_of(7)
    found = module._miou(answers)
    levels = [float(np.float32(threshold)) for threshold in THRESHOLDS]
    np.testing.assert_allclose(found, [slow_miou(answers, one) for one in levels], rtol=1e-5)
    # The mean of the episodes' own figures is another one.
    alone = np.mean([module._miou([answer]) for answer in answers], axis=0)
    assert not np.allclose(found, alone, atol=0.1)


def test_on_pixels_the_figure_is_that_of_the_masks():
    answers = [
        (case.name, module._coverage(case, case.truth.shape), torch.rand(case.truth.shape))
        for case in CASES
    ]
    found = module._miou(answers)
    for at, threshold in enumerate(THRESHOLDS):
        ious = []
        for name in ("red", "ruby"):
            own = [pair for pair in zip(CASES, answers, strict=True) if pair[0].name == name]
            truth = np.stack([case.truth == 1 for case, _ in own])
            mask = np.stack([scores.numpy() >= np.float32(threshold) for _, (_, _, scores) in own])
            ious.append((mask & truth).sum() / (mask | truth).sum())
        assert found[at] == pytest.approx(100 * np.mean(ious), abs=1e-3)


def test_what_is_ignored_does_not_count():
    truth = CASES[0].truth.copy()
    truth[:, 32:] = 255
    case = replace(CASES[0], truth=truth)
    coverage = module._coverage(case, (8, 8))
    assert coverage[..., 4:].abs().max() == 0
    assert_close(coverage[..., :4].sum(0), torch.ones(8, 4))
    scores = torch.rand(8, 8)
    other = scores.clone()
    other[:, 4:] = torch.rand(8, 4)
    one, two = (module._miou([("red", coverage, values)]) for values in (scores, other))
    np.testing.assert_array_equal(one, two)

    # The square on the right is no mistake where it is ignored.
    def after(cases):
        return calibrate(TrainingFreeScorer(None, Colours()), cases).after

    assert after([case]) > after(CASES[:1]) + 20


def test_settings_are_judged_under_known_and_unknown_names(encoder, mapped):
    mapped(0.99, 0.01)
    scorer = TrainingFreeScorer(encoder, Colours())
    trials = module._trials(scorer.vision, CASES[:2], lambda: None)
    assert [(trial.name, trial.known) for trial in trials] == [
        ("red", True),
        ("red", False),
        ("ruby", True),
        ("ruby", False),
    ]
    settings = scorer.vision.settings
    known, unknown = (
        module._curve([replace(t, known=True) for t in trials if t.known == right], settings)
        for right in (True, False)
    )
    np.testing.assert_allclose(module._curve(trials, settings), 0.75 * known + 0.25 * unknown)


def test_what_adds_up_to_a_score_is_what_the_segmenter_says(encoder):
    """Both halves are followed along edges apart, so that weights can be tried on their sum."""
    scorer = TrainingFreeScorer(encoder, Colours(text_weight=3.0, text_level=-1.0))
    case = CASES[1]
    trial = module._trials(scorer.vision, [case], lambda: None)[0]
    weight = 3 * module.name_trust(*trial.said, -1.0)
    model = FewShotSegmenter(scorer)
    supports = [Support(image, mask) for image, mask in case.supports]
    (result,) = model.fit(supports, name=case.name).predict(case.query, min_presence=0)
    # A patch of 8 pixels at 8 pixels a patch: the image's own size.
    assert_close(
        (trial.log_odds + weight * trial.named).sigmoid(),
        torch.from_numpy(result.scores[0]),
        atol=1e-4,
        rtol=0,
    )


@pytest.mark.parametrize("at", [3, 12, 25])
def test_the_figure_with_a_lift_is_that_of_lifted_scores(at):
    generator = torch.Generator().manual_seed(at)
    settings, threshold = ModelSettings(64, presence=0.2, lift=0.7), THRESHOLDS[at]
    trials, answers = [], []
    for number in range(6):
        log_odds = torch.randn(4, 5, generator=generator) - number / 2  # some reach it, some do not
        parts = torch.rand(2, 4, 5, generator=generator)
        score = 0.2 + number / 10
        name, said = f"class {number % 2}", (torch.zeros(()),) * 3
        trials.append(
            module._Trial(name, True, parts, log_odds, torch.zeros(4, 5), said, presence=score)
        )
        missing = np.log(threshold / (1 - threshold)) + 1 - float(log_odds.max())
        raised = log_odds + min(max(0, missing), 0.7 * 8 * (score - 0.2))
        answers.append((name, parts, raised.sigmoid()))
    found = module._curve(trials, settings)[at]
    assert found == pytest.approx(slow_miou(answers, threshold), rel=1e-4)
    assert found != pytest.approx(module._curve(trials, replace(settings, lift=0.0))[at], rel=0.01)


def test_the_least_lift_is_taken_that_is_nearly_best(monkeypatch):
    gains = {0.0: 50.0, 0.5: 61.1, 1.0: 62.0}
    monkeypatch.setattr(module, "_curve", lambda _, own: np.full(len(THRESHOLDS), gains[own.lift]))
    found = calibrate(TrainingFreeScorer(None, Colours()), CASES[:1])
    assert (found.settings.lift, found.after) == (0.5, 61.1)
    gains[0.0] = 61.0
    assert calibrate(TrainingFreeScorer(None, Colours()), CASES[:1]).settings.lift == 0.0


def test_without_images_or_with_other_evidence_nothing_is_chosen(encoder):
    for scorer, cases in (
        (TrainingFreeScorer(encoder), []),
        (TrainingFreeScorer(encoder, evidence="published"), CASES),
    ):
        with pytest.raises(UsageError, match="needs labelled images") as error:
            calibrate(scorer, cases)
        assert one_sentence(error)


def test_cases_are_the_episodes_of_calibration():
    questions = SceneQuestions(0, 1, 3)
    cases, asked = cases_of(questions, 2), questions.ask("calibration", 2)
    assert [case.name for case in cases] == [one.name for one in asked]
    for case, one in zip(cases, asked, strict=True):
        query = questions.load(one.query, one.asked)
        np.testing.assert_array_equal(np.asarray(case.query), query.image)
        np.testing.assert_array_equal(case.truth == 1, query.mask(one.asked))
        for (image, mask), key in zip(case.supports, one.supports, strict=True):
            shown = questions.load(key, one.shown)
            np.testing.assert_array_equal(np.asarray(image), shown.image)
            np.testing.assert_array_equal(mask, shown.mask(one.shown))


# What is written.

FOUND = {
    "blocks": (3,),
    "text_weight": 1.5,
    "text_level": -2.0,
    "presence": 0.31,
    "lift": 0.5,
    "threshold": 0.44,
}


@pytest.mark.parametrize("kind", ["clip", "vit", "the clip's other tower"])
def test_a_new_folder_loads_with_the_constants(kind, model, vit_folder, tmp_path):
    name, visual = {"clip": (model, None), "vit": (vit_folder, None)}.get(kind, (model, vit_folder))
    scorer = TrainingFreeScorer.load(name, visual=visual, device="cpu")
    settings = replace(scorer.vision.settings, **FOUND)
    save_calibrated(scorer, settings, tmp_path / "new")
    where = (
        {"name_or_folder": model, "visual": tmp_path / "new"}
        if visual
        else {"name_or_folder": tmp_path / "new"}
    )
    again = TrainingFreeScorer.load(**where, device="cpu")
    assert again.vision.settings == settings and again.threshold == 0.44
    assert again.fingerprint() == scorer.fingerprint()
    example = Support(*picture())
    one, other = (
        FewShotSegmenter(made).fit(example, name="red").predict(picture(seed=1)[0])[0]
        for made in (TrainingFreeScorer(again.encoder, again.visual), again)
    )
    np.testing.assert_array_equal(one.scores, other.scores)


def test_the_models_own_folder_keeps_what_is_not_chosen(vit_folder, tmp_path):
    folder = vit_folder.rename(vit_folder.with_name("own"))
    try:
        written = json.loads((folder / SETTINGS_FILE).read_text())
        (folder / SETTINGS_FILE).write_text(json.dumps(written | {"mean": [0.1, 0.2, 0.3]}))
        weights = (folder / "model.safetensors").read_bytes()
        scorer = TrainingFreeScorer.load(folder, device="cpu")
        save_calibrated(scorer, replace(scorer.vision.settings, **FOUND), folder)
        assert (folder / "model.safetensors").read_bytes() == weights
        expected = written | {"mean": [0.1, 0.2, 0.3]} | FOUND | {"blocks": [3]}
        assert json.loads((folder / SETTINGS_FILE).read_text()) == expected
        again = TrainingFreeScorer.load(folder, device="cpu").vision.settings
        assert again == replace(scorer.vision.settings, **FOUND)
        (folder / SETTINGS_FILE).unlink()
        save_calibrated(scorer, replace(scorer.vision.settings, **FOUND), folder)
        assert json.loads((folder / SETTINGS_FILE).read_text()) == FOUND | {"blocks": [3]}
    finally:
        folder.rename(vit_folder)


def test_a_folder_with_something_else_is_left_alone(encoder, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UsageError) as error:
        save_calibrated(TrainingFreeScorer(encoder), encoder.settings, tmp_path)
    assert one_sentence(error)
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]


def test_a_new_folder_may_be_called_like_the_model(tmp_path, monkeypatch):
    """The built-in model is no folder of the user's."""
    monkeypatch.chdir(tmp_path)
    scorer = TrainingFreeScorer.load("builtin", device="cpu", dtype="float32")
    save_calibrated(scorer, scorer.vision.settings, tmp_path / "builtin")
    again = TrainingFreeScorer.load(tmp_path / "builtin", device="cpu")
    assert again.fingerprint() == scorer.fingerprint()
