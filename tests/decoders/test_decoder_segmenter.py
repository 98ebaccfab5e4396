"""A trained decoder behind the segmenter's ``fit`` and ``predict``."""

import numpy as np
import pytest
import torch
from decoder_runs import SIZE, load, probabilities, saved, supports
from PIL import Image
from small_decoders import small_decoder

from piclip import FewShotSegmenter, Support
from piclip.decoders.clip_priors import PriorMaker
from piclip.decoders.scorer import DecoderScorer
from piclip.errors import ImageError, MaskError, ModelError, UsageError
from piclip.evaluation.predictor import Predictor, blind
from piclip.results import priors_of

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def segmenter(run):
    return load(run)


@pytest.fixture(scope="module")
def other(view, episode):
    episodes = (blind(view.load(view.episode(0, index, 2))) for index in range(1, 20))
    return next(found for found in episodes if found.name != episode.name)


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
def test_it_finds_what_a_plain_pass_finds_and_so_does_the_evaluation(
    tmp_path, view, name, prior, sees
):
    folder = saved(tmp_path, name, prior, sees)
    segmenter = load(folder)
    trained = DecoderScorer.load(folder, device="cpu")
    predictor = Predictor(segmenter)
    for index, shots in ((0, 1), (1, 3)):
        asked = blind(view.load(view.episode(1, index, shots)))
        fitted = segmenter.unfitted().fit(supports(asked), name=asked.name)
        (result,) = fitted.predict([asked.query.image])
        expected = probabilities(trained, asked)
        np.testing.assert_allclose(result.scores[0], expected, atol=1e-6)
        sure = np.abs(expected - 0.5) > 1e-6
        mask = predictor.predict(asked)
        assert np.array_equal(mask, result.mask)
        mask = expected > 0.5
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
    backbone = segmenter.scorer.decoder.backbone
    read = backbone.read
    monkeypatch.setattr(
        backbone,
        "read",
        lambda x, *masks, high: (seen.append(len(x)), read(x, *masks, high=high))[1],
    )
    encode = segmenter.scorer.maker.encoder.encode
    encoder = segmenter.scorer.maker.encoder
    monkeypatch.setattr(encoder, "encode", lambda x: (seen.append(-len(x)), encode(x))[1])
    fitted.predict([episode.query.image] * 3)
    assert sorted(seen) == [-3, 3]


def test_names_and_other_wordings_reach_the_text_prior(run, segmenter, episode, view):
    trained = DecoderScorer.load(run, device="cpu")
    fitted = segmenter.unfitted().fit(supports(episode), name=episode.name)
    plain = fitted.predict([episode.query.image])[0].scores[0]
    rivals = ("umbrella", "skull")
    told = fitted.predict([episode.query.image], contrast=rivals)[0].scores[0]
    np.testing.assert_allclose(told, probabilities(trained, episode, rivals), atol=1e-6)
    worded = {episode.name: ("sail boat", "ship")}
    fitted.fit(supports(episode), name=episode.name, synonyms=worded)
    called = fitted.predict([episode.query.image])[0].scores[0]
    encoder = segmenter.scorer.maker.encoder
    decoder = segmenter.scorer.decoder
    other_words = DecoderScorer(decoder, PriorMaker(encoder, worded), size=SIZE)
    np.testing.assert_allclose(called, probabilities(other_words, episode), atol=1e-6)
    assert np.abs(told - plain).max() > 1e-5 < np.abs(called - plain).max()


@pytest.mark.parametrize(("prior", "sees"), [("piclip", "plain"), ("imagenet", "augmented")])
def test_saved_and_loaded_it_answers_the_same(tmp_path, episode, other, prior, sees):
    fitted = load(saved(tmp_path / "run", prior=prior, sees=sees))
    fitted.fit({episode.name: supports(episode), other.name: supports(other, 1)})
    folder = fitted.save(tmp_path / "animals")
    loaded = FewShotSegmenter.load(folder, device="cpu")
    assert loaded.classes == fitted.classes
    assert [memory.shots for memory in loaded._memories.values()] == [3, 1]
    one, two = (model.predict([episode.query.image])[0] for model in (fitted, loaded))
    np.testing.assert_allclose(one.scores, two.scores, atol=1e-6)

    again = small_decoder("pfenet", seed=1, prior=prior)
    again.save_pretrained(tmp_path / "run" / "decoder")
    with pytest.raises(ModelError, match="for another model"):
        FewShotSegmenter.load(folder, device="cpu")


def test_an_object_between_the_pixels_is_not_lost(segmenter, episode):
    mask = np.zeros((600, 400), bool)
    mask[301, 123] = True
    image = np.asarray(Image.fromarray(episode.query.image).resize((400, 600)))
    fitted = segmenter.unfitted().fit([Support(image, mask)], name="speck")
    seen = fitted._memories["speck"].masks[0]
    # The view is 49 pixels high with the image in its middle; the speck is one pixel of it.
    row, column = np.argwhere(seen.numpy() == 1)[0]
    assert (seen == 1).sum() == 1
    assert (row, column) == (int(301.5 / 600 * 49), int(24.5 + (123.5 - 200) / 600 * 49))
    assert np.isfinite(fitted.predict([image])[0].scores).all()


def test_large_plain_images_are_made_smaller_for_clip_only(tmp_path, episode, monkeypatch):
    monkeypatch.setattr("piclip.decoders.views.LONGEST", 160)
    fitted = load(saved(tmp_path, sees="plain"))
    image = Image.fromarray(episode.supports[0].image).resize((320, 112))
    mask = Image.fromarray(episode.supports[0].mask(episode.class_index)).resize(image.size)
    fitted.fit([Support(image, mask)], name=episode.name)
    seen = fitted.scorer.encode_queries([np.array(image)])[0]
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
    with pytest.raises(UsageError, match="learn from no negatives"):
        model.fit(supports(episode), name="cat", negatives=episode.query.image)
    with pytest.raises(UsageError, match="learn from no negatives"):
        model.fit(supports(episode), name="cat", negatives=tmp_path / "none.png")
    assert model.classes == ()
    with pytest.raises(UsageError, match="without training"):
        _ = model.encoder
    result = model.fit(supports(episode), name="cat").predict([episode.query.image])[0]
    with pytest.raises(UsageError, match="no priors"):
        priors_of(result)
    with pytest.raises(UsageError, match="leave clip out"):
        FewShotSegmenter.from_pretrained("builtin", clip="builtin")
