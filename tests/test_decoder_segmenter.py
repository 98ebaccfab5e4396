"""A trained decoder behind the segmenter's ``fit`` and ``predict``."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from piclip import FewShotSegmenter, Support
from piclip.clip_priors import PriorMaker
from piclip.datasets.few_shot import FewShotView
from piclip.datasets.registry import open_dataset
from piclip.decoders.registry import build_decoder
from piclip.decoders.trained import TrainedDecoder
from piclip.decoders.views import laid_back, whole_view
from piclip.errors import ImageError, MaskError, ModelError, UsageError
from piclip.evaluation.decoder_predictor import Checkpoint, DecoderPredictor
from piclip.evaluation.predictors import blind
from piclip.results import priors_of

torch.set_num_threads(1)

SIZE = 49
OPTIONS = {
    "pfenet": {"scales": [9, 5, 3]},
    "bam": {"base_classes": 3, "base_width": 8},
    "hdmnet": {"base_classes": 3, "base_width": 8, "matching_width": 16},
}


def saved(folder, name="pfenet", prior="piclip", sees="augmented", **clip):
    """The folder of a training that ended with random weights."""
    torch.manual_seed(0)
    decoder = build_decoder(name, backbone="tiny", prior=prior, width=8, **OPTIONS[name])
    decoder.save_pretrained(folder / "decoder")
    recipe = {
        "clip": {"model": "builtin", "dtype": "float32", "sees": sees, **clip},
        "augmentation": {"size": SIZE},
    }
    record = {"format": 1, "recipe": recipe}
    (folder / "decoder" / "training.json").write_text(json.dumps(record))
    return folder


def load(folder, **options):
    return FewShotSegmenter.from_pretrained(folder, device="cpu", **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("runs") / "piclip")


@pytest.fixture(scope="module")
def segmenter(run):
    return load(run)


@pytest.fixture(scope="module")
def view():
    dataset = open_dataset("scenes", train_images=60, val_images=60)
    return FewShotView(dataset, fold=0, split="val", classes="novel")


@pytest.fixture(scope="module")
def episode(view):
    return blind(view.load(view.episode(0, 0, 3)))


@pytest.fixture(scope="module")
def other(view, episode):
    episodes = (blind(view.load(view.episode(0, index, 2))) for index in range(1, 20))
    return next(found for found in episodes if found.name != episode.name)


def supports(episode, count=None):
    return [Support(s.image, s.mask(episode.class_index)) for s in episode.supports[:count]]


def probabilities(predictor, episode, others=()):
    """What the evaluation makes of an episode, before it takes the larger score."""
    logits = predictor.logits([episode], [others])[0]
    own = laid_back(logits, episode.query.image.shape[:2])
    return torch.sigmoid(own[1] - own[0]).numpy()


@pytest.mark.parametrize(
    ("name", "prior", "sees"),
    [
        ("pfenet", "piclip", "augmented"),
        ("pfenet", "imagenet", "augmented"),
        ("bam", "piclip", "plain"),
        ("hdmnet", "piclip", "augmented"),
        ("hdmnet", "none", "augmented"),
    ],
)
def test_it_finds_what_the_evaluation_finds(tmp_path, view, name, prior, sees):
    folder = saved(tmp_path, name, prior, sees)
    segmenter = load(folder)
    predictor = DecoderPredictor.load(Checkpoint.find(folder), {}, device="cpu")
    for index, shots in ((0, 1), (1, 3)):
        asked = blind(view.load(view.episode(1, index, shots)))
        fitted = segmenter.unfitted().fit(supports(asked), name=asked.name)
        (result,) = fitted.predict([asked.query.image])
        expected = probabilities(predictor, asked)
        np.testing.assert_allclose(result.scores[0], expected, atol=1e-6)
        sure = np.abs(expected - 0.5) > 1e-6
        (mask,) = predictor.predict([asked], [()])
        assert np.array_equal(result.mask[sure], mask[sure]) and sure.mean() > 0.9


def test_every_class_scores_as_if_alone_and_the_likeliest_takes_a_pixel(segmenter, episode, other):
    both = segmenter.unfitted()
    both.fit({episode.name: supports(episode), other.name: supports(other, 1)})
    images = [episode.query.image, other.query.image[:100]]
    for image, result in zip(images, both.predict(images), strict=True):
        assert result.class_names == (episode.name, other.name)
        assert result.size == image.shape[:2]
        for row, (shown, count) in enumerate(((episode, None), (other, 1))):
            alone = segmenter.unfitted().fit(supports(shown, count), name=shown.name)
            scores = alone.predict([image])[0].scores[0]
            np.testing.assert_allclose(result.scores[row], scores, atol=1e-6)
        best = result.scores.argmax(0) + 1
        expected = np.where(result.scores.max(0) >= 0.5, best, 0)
        assert np.array_equal(result.class_map, expected)
    least = float(np.median(result.score))
    again = both.predict(images, threshold=least)[1]
    assert np.array_equal(again.mask, result.score >= least)


def test_batches_and_mirrors(segmenter, episode, other):
    fitted = segmenter.unfitted().fit(supports(episode), name=episode.name)
    images = [episode.query.image, other.query.image, episode.query.image[:64]]
    together = fitted.predict(images, batch_size=8)
    apart = [result for image in images for result in fitted.predict([image], batch_size=1)]
    for one, single in zip(together, apart, strict=True):
        np.testing.assert_allclose(one.scores, single.scores, atol=1e-5)
    assert [result.name for result in together] == ["00000", "00001", "00002"]
    turned = fitted.predict([image[:, ::-1] for image in images])
    mirrored = fitted.predict(images, mirror=True)
    for one, two, mean in zip(together, turned, mirrored, strict=True):
        expected = (one.scores + two.scores[..., ::-1]) / 2
        np.testing.assert_allclose(mean.scores, expected, atol=1e-5)


def test_supports_are_looked_at_once_and_queries_once_for_all_classes(
    segmenter, episode, other, monkeypatch
):
    fitted = segmenter.unfitted()
    fitted.fit({episode.name: supports(episode), other.name: supports(other)})
    seen = []
    backbone = segmenter.scorer.trained.decoder.backbone
    lower = backbone.lower
    monkeypatch.setattr(backbone, "lower", lambda x: (seen.append(len(x)), lower(x))[1])
    encode = segmenter.scorer.trained.maker.encoder.encode
    encoder = segmenter.scorer.trained.maker.encoder
    monkeypatch.setattr(encoder, "encode", lambda x: (seen.append(-len(x)), encode(x))[1])
    fitted.predict([episode.query.image] * 3)
    assert sorted(seen) == [-3, 3]


def test_names_and_other_wordings_reach_the_text_prior(run, segmenter, episode, view):
    predictor = DecoderPredictor.load(Checkpoint.find(run), {}, device="cpu")
    fitted = segmenter.unfitted().fit(supports(episode), name=episode.name)
    plain = fitted.predict([episode.query.image])[0].scores[0]
    rivals = ("umbrella", "skull")
    told = fitted.predict([episode.query.image], contrast=rivals)[0].scores[0]
    np.testing.assert_allclose(told, probabilities(predictor, episode, rivals), atol=1e-6)
    worded = {episode.name: ("sail boat", "ship")}
    fitted.fit(supports(episode), name=episode.name, synonyms=worded)
    called = fitted.predict([episode.query.image])[0].scores[0]
    encoder = segmenter.scorer.trained.maker.encoder
    decoder = segmenter.scorer.trained.decoder
    other_words = DecoderPredictor(decoder, PriorMaker(encoder, worded), size=SIZE)
    np.testing.assert_allclose(called, probabilities(other_words, episode), atol=1e-6)
    assert np.abs(told - plain).max() > 1e-5 < np.abs(called - plain).max()


@pytest.mark.parametrize(("prior", "sees"), [("piclip", "plain"), ("imagenet", "augmented")])
def test_saved_and_loaded_it_answers_the_same(tmp_path, episode, other, prior, sees):
    fitted = load(saved(tmp_path / "run", prior=prior, sees=sees))
    fitted.fit({episode.name: supports(episode), other.name: supports(other, 1)})
    folder = fitted.save(tmp_path / "animals")
    loaded = FewShotSegmenter.load(folder, device="cpu")
    assert loaded.class_names == fitted.class_names
    assert [memory.shots for memory in loaded.memories.values()] == [3, 1]
    one, two = (model.predict([episode.query.image])[0] for model in (fitted, loaded))
    np.testing.assert_allclose(one.scores, two.scores, atol=1e-6)

    torch.manual_seed(1)
    again = build_decoder("pfenet", backbone="tiny", prior=prior, width=8, **OPTIONS["pfenet"])
    again.save_pretrained(tmp_path / "run" / "decoder")
    with pytest.raises(ModelError, match="for another model"):
        FewShotSegmenter.load(folder, device="cpu")


@pytest.mark.parametrize("prior", ["imagenet", "none"])
def test_a_decoder_without_clip_needs_none(tmp_path, episode, monkeypatch, prior):
    monkeypatch.setattr("piclip.clip.encoder.load_clip", None)
    monkeypatch.setattr("piclip.decoders.trained.SIZE", 41)  # 473 takes long
    folder = saved(tmp_path, prior=prior) / "decoder"
    (folder / "training.json").unlink()
    fitted = load(folder).fit(supports(episode), name="thing")
    result = fitted.predict([episode.query.image])[0]
    assert result.size == episode.query.image.shape[:2]
    assert fitted.scorer.trained.size == 41
    with pytest.raises(UsageError, match="leave contrast out"):
        fitted.predict([episode.query.image], contrast=["cup"])
    with pytest.raises(UsageError, match="leave clip out"):
        load(folder, clip="builtin")


def test_a_decoder_of_unknown_training_asks_for_its_clip(tmp_path, run, episode, monkeypatch):
    monkeypatch.setattr("piclip.decoders.trained.SIZE", 41)  # 473 takes long
    folder = saved(tmp_path) / "decoder"
    (folder / "training.json").unlink()
    with pytest.raises(UsageError, match="clip="):
        load(folder)
    given = load(folder, clip="builtin", dtype="float32")
    fitted = given.fit(supports(episode), name=episode.name)
    trained = TrainedDecoder.load(Checkpoint.find(run), device="cpu")
    predictor = DecoderPredictor(trained.decoder, trained.maker, size=41)
    score = fitted.predict([episode.query.image])[0].scores[0]
    np.testing.assert_allclose(score, probabilities(predictor, episode), atol=1e-6)
    loaded = FewShotSegmenter.load(fitted.save(tmp_path / "kept"), device="cpu")
    assert loaded.class_names == (episode.name,)


@pytest.mark.parametrize(("shots", "visual"), [(None, "plain"), (1, "raw")])
def test_hdmnet_in_the_published_form_takes_cosines(tmp_path, shots, visual):
    options = {**OPTIONS["hdmnet"], "published_shots": shots}
    decoder = build_decoder("hdmnet", backbone="tiny", prior="piclip", width=8, **options)
    decoder.save_pretrained(tmp_path)
    found = TrainedDecoder.load(Checkpoint.find(tmp_path), clip="builtin", device="cpu")
    assert found.maker.visual == visual


def test_the_recipe_beside_a_run_is_read_where_the_decoder_has_no_record(tmp_path):
    folder = saved(tmp_path)
    (folder / "decoder" / "training.json").unlink()
    (folder / "recipe.yaml").write_text("clip: {model: builtin}\naugmentation: {size: 33}\n")
    assert load(folder).scorer.trained.size == load(folder / "decoder").scorer.trained.size == 33


def test_an_object_between_the_pixels_is_not_lost(segmenter, episode):
    mask = np.zeros((600, 400), bool)
    mask[301, 123] = True
    image = np.asarray(Image.fromarray(episode.query.image).resize((400, 600)))
    fitted = segmenter.unfitted().fit([Support(image, mask)], name="speck")
    seen = fitted.memories["speck"].supports.masks[0]
    # The view is 49 pixels high with the image in its middle; the speck is one pixel of it.
    row, column = np.argwhere(seen.numpy() == 1)[0]
    assert (seen == 1).sum() == 1
    assert (row, column) == (int(301.5 / 600 * 49), int(24.5 + (123.5 - 200) / 600 * 49))
    assert np.isfinite(fitted.predict([image])[0].scores).all()


def test_large_plain_images_are_made_smaller_for_clip_only(tmp_path, episode, monkeypatch):
    monkeypatch.setattr("piclip.decoders.trained.LONGEST", 160)
    fitted = load(saved(tmp_path, sees="plain"))
    image = Image.fromarray(episode.supports[0].image).resize((320, 112))
    mask = Image.fromarray(episode.supports[0].mask(episode.class_index)).resize(image.size)
    fitted.fit([Support(image, mask)], name=episode.name)
    seen = fitted.scorer.trained.see([np.array(image)])[0]
    assert seen.clip.grid == (56 // 8, 160 // 8)
    assert fitted.predict([image])[0].size == (112, 320)


def test_wrong_requests_say_what_to_do(tmp_path, segmenter, episode):
    model = segmenter.unfitted()
    with pytest.raises(UsageError, match="call fit first"):
        model.predict([episode.query.image])
    with pytest.raises(UsageError, match="1 to 50"):
        model.fit([], name="cat")
    with pytest.raises(ImageError):
        model.fit([Support(tmp_path / "none.png", tmp_path / "none.png")], name="cat")
    empty = Support(episode.query.image, np.zeros(episode.query.image.shape[:2], bool))
    with pytest.raises(MaskError, match="no object pixel"):
        model.fit({"cat": supports(episode), "dog": [empty]})
    assert model.class_names == ()
    with pytest.raises(UsageError, match="without training"):
        _ = model.encoder
    result = model.fit(supports(episode), name="cat").predict([episode.query.image])[0]
    with pytest.raises(UsageError, match="no priors"):
        priors_of(result)
    with pytest.raises(UsageError, match="leave clip out"):
        FewShotSegmenter.from_pretrained("builtin", clip="builtin")


def test_folders_that_are_not_finished_or_damaged_are_refused(tmp_path):
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "recipe.yaml").write_text("fold: 0\n")
    with pytest.raises(ModelError, match="run piclip train again"):
        load(tmp_path / "half")
    folder = saved(tmp_path / "damaged")
    (folder / "decoder" / "training.json").write_text("{}")
    with pytest.raises(ModelError, match="record of a training"):
        load(folder)
    (folder / "decoder" / "training.json").unlink()
    (folder / "decoder" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match="absent or damaged"):
        load(folder)


def test_touched_pixels_are_those_of_the_object():
    view = whole_view(20, 40, 16)
    labels = np.zeros((20, 40), bool)
    labels[5:9, 30:33] = True
    found = view.touched(labels).numpy()
    expected = np.zeros((16, 16), bool)
    for row in range(5, 9):
        for column in range(30, 33):
            expected[int((row + 0.5 - 10) / 40 * 16 + 8), int((column + 0.5) / 40 * 16)] = True
    assert np.array_equal(found, expected)
