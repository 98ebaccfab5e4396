import errno
import json
import math
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from piclip import FewShotSegmenter, Support
from piclip.clip.cache import MemoryCache
from piclip.datasets.scenes.scene_episodes import scene_episode
from piclip.errors import ImageError, MaskError, ModelError, OutputError, UsageError
from piclip.scorer import Scored
from piclip.training_free.scorer import TrainingFreeScorer


@pytest.fixture(scope="module")
def segmenter():
    return FewShotSegmenter.from_pretrained("builtin", device="cpu")


@pytest.fixture(scope="module")
def episode():
    return scene_episode(0, 12, 2)


def supports(episode, count=1):
    return [Support(s.image, s.mask(episode.class_index)) for s in episode.supports[:count]]


def fitted(segmenter, episode, count=1):
    return FewShotSegmenter(segmenter.encoder).fit(supports(episode, count), name=episode.name)


def iou(mask, truth):
    return (mask & truth).sum() / (mask | truth).sum()


def test_it_finds_the_class_better_than_chance(segmenter):
    # Mean over a few held-out episodes; a mask of everything would score the object's share.
    found, share = [], []
    for index in range(8):
        episode = scene_episode(1, index)
        truth = episode.query.mask(episode.class_index)
        result = fitted(segmenter, episode).predict([episode.query.image])[0]
        found.append(iou(result.mask, truth))
        share.append(truth.mean())
    assert np.mean(found) > 3 * np.mean(share)
    assert np.mean(found) > 0.4


def test_the_result_has_the_images_own_size_and_all_maps(segmenter, episode):
    model = fitted(segmenter, episode, 2)
    image = Image.fromarray(episode.query.image).resize((190, 77))
    result = model.predict([image])[0]
    assert result.size == (77, 190) and result.scores.shape == (1, 77, 190)
    assert result.class_names == (episode.name,)
    grid = result.priors.visual_text.shape[1:]
    assert grid[1] > grid[0] and 200 < grid[0] * grid[1] < 320
    assert {maps.shape for maps in result.priors.maps().values()} == {(1, *grid)}
    assert list(result.priors.maps()) == ["fused", "visual_text", "visual_text_refined", "contrast"]


def test_batches_do_not_change_results(segmenter, episode):
    model = fitted(segmenter, episode)
    images = [episode.query.image, episode.supports[1].image, episode.query.image[:64]]
    together = model.predict(images, batch_size=np.int64(8))
    apart = [model.predict([image])[0] for image in images]
    for one, other in zip(together, apart, strict=True):
        assert np.abs(one.scores - other.scores).max() < 1e-4
    assert [result.name for result in together] == ["00000", "00001", "00002"]


def test_several_classes_compete_for_each_pixel(segmenter):
    first, second = scene_episode(2, 3), scene_episode(2, 5)
    model = FewShotSegmenter(segmenter.encoder)
    model.fit({e.name: supports(e) for e in (first, second)})
    result = model.predict([first.query.image], threshold=0.3)[0]
    assert result.class_names == (first.name, second.name)
    best = result.scores.argmax(0)
    one = result.mask_of(first.name)
    assert (best[one] == 0).all() and (result.scores[0][one] >= 0.3).all()
    assert not (one & result.mask_of(second.name)).any()


def test_fitting_again_adds_and_replaces(segmenter, episode):
    other = scene_episode(0, 7)
    model = fitted(segmenter, episode)
    model.fit(supports(other), name=other.name).fit(supports(episode, 2), name=episode.name)
    assert model.classes == (episode.name, other.name)
    assert model._memories[episode.name].shots == 2


def test_a_failed_fit_changes_nothing(segmenter, episode):
    model = fitted(segmenter, episode)
    empty = Support(episode.query.image, np.zeros((128, 128), bool))
    with pytest.raises(MaskError):
        model.fit({"cup": supports(episode), "cloud": [empty]})
    assert model.classes == (episode.name,)


def test_contrast_texts_change_the_text_prior_only(segmenter, episode):
    model = fitted(segmenter, episode)
    plain = model.predict([episode.query.image])[0].priors
    told = model.predict([episode.query.image], contrast=("umbrella", "skull"))[0].priors
    assert np.abs(plain.visual_text - told.visual_text).max() > 1e-3
    assert np.array_equal(plain.contrast, told.contrast)


def test_a_tiny_object_is_not_lost_on_the_grid(segmenter, episode):
    mask = np.zeros((128, 128), bool)
    mask[50, 61] = True
    model = FewShotSegmenter(segmenter.encoder)
    model.fit([Support(episode.supports[0].image, mask)], name="speck")
    coverage = model._memories["speck"].coverage
    patch = segmenter.encoder.patch_size
    assert coverage[: (128 // patch) ** 2].sum() == pytest.approx(1 / patch**2)
    assert coverage.max() > 0.1  # where it is looked at closely
    (result,) = model.predict([episode.supports[0].image])
    assert np.isfinite(result.scores).all()


@pytest.mark.filterwarnings("ignore:The examples of 'thing' show no background")
@pytest.mark.parametrize("size", [(1, 1), (7, 900), (900, 7)])
def test_awkward_shapes_work_as_support_and_query(segmenter, size):
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    mask = np.zeros(size, bool)
    mask[0, 0] = True
    model = FewShotSegmenter(segmenter.encoder).fit([Support(image, mask)], name="thing")
    result = model.predict([image])[0]
    assert result.size == size and np.isfinite(result.scores).all()


def test_a_mask_of_everything_works(segmenter, episode):
    everything = np.ones((128, 128), bool)
    model = FewShotSegmenter(segmenter.encoder)
    with pytest.warns(UserWarning, match="show no background, so only its name"):
        model.fit([Support(episode.supports[0].image, everything)], name="scene")
    assert np.isfinite(model.predict([episode.query.image])[0].scores).all()


def test_saved_and_loaded_it_answers_the_same(segmenter, episode, tmp_path):
    model = fitted(segmenter, episode, 2)
    model.fit(supports(scene_episode(0, 7)), name="flag")
    loaded = FewShotSegmenter.load(model.save(tmp_path / "cats"), device="cpu")
    assert loaded.classes == model.classes
    one, other = (m.predict([episode.query.image])[0] for m in (model, loaded))
    assert np.array_equal(one.scores, other.scores)
    # In the file they lie anywhere, and sums of floats that are not aligned are rounded otherwise.
    for name in loaded.classes:
        for tensor in loaded.scorer.tensors(loaded._memories[name]).values():
            assert tensor.data_ptr() % 64 == 0


def test_bands_are_kept_with_what_was_learned(segmenter, episode, tmp_path):
    model = FewShotSegmenter(segmenter.scorer, bands=[3, 2, 1])
    reversed_, [shown] = tmp_path / "support.tif", supports(episode, 1)
    Image.fromarray(shown.image[:, :, ::-1]).save(reversed_)
    model.fit(Support(reversed_, shown.mask), name=episode.name)
    loaded = FewShotSegmenter.load(model.save(tmp_path / "cats"), device="cpu")
    assert loaded.bands == model.unfitted().bands == (3, 2, 1)
    expected = fitted(segmenter, episode, 1).predict(episode.query.image)[0]
    found = loaded.predict(episode.query.image)[0]  # an array has no bands
    np.testing.assert_array_equal(found.scores, expected.scores)
    with pytest.raises(UsageError, match="numbers of red, green and blue"):
        FewShotSegmenter(segmenter.scorer, bands=(1, 2))


@pytest.mark.parametrize(
    ("field", "harm"),
    [
        ("tokens", lambda t: t * math.nan),
        ("spreads", lambda t: t[:0]),
        ("level", lambda t: t[None]),
        ("tokens", lambda t: t.bool()),
        ("coverage", lambda t: t.to(torch.int64)),
        ("texts", lambda t: t.double()),
        ("owner", lambda t: t.float()),
        ("count", lambda t: t.to(torch.int32)),
    ],
)
def test_a_memory_that_cannot_be_is_refused(segmenter, episode, tmp_path, field, harm):
    folder = fitted(segmenter, episode).save(tmp_path / "one")
    tensors = load_file(folder / "memories.safetensors")
    tensors[f"0.{field}"] = harm(tensors[f"0.{field}"])
    save_file(tensors, folder / "memories.safetensors")
    with pytest.raises(ModelError, match="no complete saved segmenter"):
        FewShotSegmenter.load(folder)


def test_a_broken_folder_is_refused(segmenter, episode, tmp_path):
    with pytest.raises(ModelError, match="no complete saved segmenter"):
        FewShotSegmenter.load(tmp_path)
    folder = fitted(segmenter, episode).save(tmp_path / "one")
    index = json.loads((folder / "segmenter.json").read_text())
    (folder / "segmenter.json").write_text(json.dumps(index | {"format": 1}))
    with pytest.raises(ModelError, match="another"):
        FewShotSegmenter.load(folder)
    (folder / "memories.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match="no complete"):
        FewShotSegmenter.load(folder)


def test_loading_on_a_device_that_is_not_there_says_so(segmenter, episode, tmp_path):
    folder = fitted(segmenter, episode).save(tmp_path / "one")
    for wrong in ({"device": "nowhere"}, {"dtype": "int8"}):
        with pytest.raises(UsageError, match=next(iter(wrong.values()))):
            FewShotSegmenter.load(folder, **wrong)


def test_saving_that_fails_leaves_what_was_saved_before(segmenter, episode, tmp_path, monkeypatch):
    folder = fitted(segmenter, episode).save(tmp_path / "one")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = FewShotSegmenter(segmenter.encoder).fit(supports(scene_episode(0, 7)), name="flag")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OutputError, match="disk is full"):
            other.save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_wrong_requests_say_what_to_do(segmenter, episode):
    model = FewShotSegmenter(segmenter.encoder)
    with pytest.raises(UsageError, match="call fit first"):
        model.predict([episode.query.image])
    with pytest.raises(UsageError, match="name="):
        model.fit(supports(episode))
    with pytest.raises(UsageError, match="1 to 50"):
        model.fit([], name="cat")
    with pytest.raises(UsageError, match="leave name out"):
        model.fit({"cat": supports(episode)}, name="cat")
    with pytest.raises(UsageError, match="at most 254 classes"):
        model.fit({f"class {number}": supports(episode) for number in range(255)})
    with pytest.raises(UsageError, match="no class to learn"):
        model.fit({})
    for name, words in {" ": "is blank", 3: "'zebra', not 3", "\udcff": "no text in UTF-8"}.items():
        with pytest.raises(UsageError, match=words):
            model.fit({name: supports(episode)})
    model.fit(supports(episode), name="cat")
    with pytest.raises(UsageError, match="'zebra', not 3"):
        model.predict([episode.query.image], contrast=[3])
    for wrong in (0, -1, 2.5, True, "4", None):
        for segment in (model.predict, model.stream):
            with pytest.raises(UsageError, match="batch size must be a whole number from 1 on"):
                segment([episode.query.image], batch_size=wrong)
    with pytest.raises(UsageError, match="between 0 and 1"):
        model.predict([episode.query.image], threshold=2)


def numbered(folder, images):
    folder.mkdir()
    paths = [folder / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def test_one_image_or_many_of_any_kind(segmenter, episode, tmp_path):
    model = fitted(segmenter, episode)
    image = episode.query.image
    (path,) = numbered(tmp_path / "in", [image])
    (expected,) = model.predict([image])
    for given in (
        image,
        path,
        str(path),
        Image.fromarray(image),
        (image,),
        iter([path]),
        (Image.fromarray(one) for one in [image]),
    ):
        (result,) = model.predict(given)
        np.testing.assert_array_equal(result.scores, expected.scores)
    gray = model.predict(image[..., 0])
    assert len(gray) == 1 and gray[0].size == image.shape[:2]
    assert model.predict([]) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such file names")
def test_a_result_can_be_made_of_any_file(segmenter, episode, tmp_path):
    names = ["in\\dog", "...png", "..png", "a\nb", "-a", "[red]", "a."]
    for name in names:
        Image.fromarray(episode.query.image).save(tmp_path / name, format="PNG")
    results = fitted(segmenter, episode).predict(tmp_path / name for name in names)
    assert [result.name for result in results] == [*names[:-1], "a"]
    assert all(result.save(tmp_path / "out")["mask"].is_file() for result in results)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (7, "not int"),
        (None, "not NoneType"),
        (b"a.jpg", "not int"),
        ([["a.jpg"]], "not list"),
        (torch.zeros(3, 8, 8), "not Tensor"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"not an array of the shape \(2, 8, 8, 3\)"),
    ],
)
def test_what_is_no_image_is_refused(segmenter, episode, wrong, named):
    with pytest.raises(UsageError, match=f"a file, a Pillow image or an array .*{named}"):
        fitted(segmenter, episode).predict(wrong)


def test_one_support_or_many_and_nothing_else(segmenter, episode):
    one, two = supports(episode, 2)
    model = FewShotSegmenter(segmenter.encoder)
    model.fit(one, name="cat").fit((s for s in (one, two)), name="dog").fit({"cow": two})
    assert model.classes == ("cat", "dog", "cow")
    assert [memory.shots for memory in model._memories.values()] == [1, 2, 1]
    for wrong in (7, "a.jpg", [one.image], (one.image, one.mask)):
        with pytest.raises(UsageError, match=r"piclip.Support\(image, mask\), one or many, not"):
            model.fit(wrong, name="cat")


def test_a_stream_reads_a_few_images_ahead_and_no_more(segmenter, episode):
    asked = []

    def images():
        for number in range(40):
            asked.append(number)
            yield episode.query.image

    found = fitted(segmenter, episode).stream(images(), batch_size=3)
    assert asked == []
    for number in range(40):
        assert next(found).name == f"{number:05d}"
        assert len(asked) <= number + 3 * 3
    assert list(found) == []


def test_a_stream_asks_for_the_classes_that_were_learned_when_it_began(segmenter, episode):
    model = fitted(segmenter, episode)
    found = model.stream([episode.query.image])
    model.fit(supports(episode), name="later")
    assert next(found).class_names == (episode.name,)


def test_a_bad_image_is_told_in_its_place_and_costs_no_other(segmenter, episode, tmp_path):
    paths = numbered(tmp_path / "in", [episode.query.image] * 5)
    paths[2].write_bytes(b"no picture")
    model = fitted(segmenter, episode)
    told = []
    for result in model.stream(paths, on_error=lambda *what: told.append(what), batch_size=2):
        told.append(result.source)
    assert [item for number, item in enumerate(told) if number != 2] == [
        str(path) for path in paths if path != paths[2]
    ]
    source, error = told[2]
    assert source == paths[2] and isinstance(error, ImageError) and "2.png" in str(error)
    results = model.predict(paths, on_error=lambda *_: None)
    assert [result.name for result in results] == ["0", "1", "3", "4"]
    seen = []
    with pytest.raises(ImageError, match=r"2\.png"):
        for result in model.stream(paths, batch_size=1):
            seen.append(result.name)
    assert seen == ["0", "1"]


def test_images_that_end_in_an_error_give_the_results_before_it(segmenter, episode):
    def images():
        yield from [episode.query.image] * 4
        raise OSError("the disk is gone")

    seen = []
    with pytest.raises(OSError, match="disk is gone"):
        for result in fitted(segmenter, episode).stream(images(), batch_size=3):
            seen.append(result.name)
    with pytest.raises(UsageError, match="not int"):
        for result in fitted(segmenter, episode).stream([episode.query.image, 7]):
            seen.append(result.name)
    assert seen == ["00000", "00001", "00002", "00003", "00000"]


class Picky:
    """A scorer that cannot score images of one width; the others' score is 1."""

    threshold = 0.5

    def __init__(self, error):
        self.error, self.asked = error, []

    def fit(self, name, supports, **_):
        return name

    def score(self, images, **_):
        self.asked.append(len(images))
        if any(image.width == 7 for image in images):
            raise self.error
        return [Scored(np.ones((1, i.height, i.width), np.float32), None) for i in images]


@pytest.mark.parametrize(
    ("widths", "asked"), [([1, 2], [2]), ([1, 7, 3], [3, 1, 1, 1]), ([7], [1])]
)
def test_an_image_that_cannot_be_scored_spoils_no_other(widths, asked):
    picky = Picky(ImageError("seven is too wide"))
    support = Support(np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), bool))
    model = FewShotSegmenter(picky).fit(support, name="thing")
    failed = []
    images = [Image.new("RGB", (width, 1)) for width in widths]
    found = model.predict(images, on_error=lambda image, error: failed.append(image.width))
    assert picky.asked == asked
    assert [result.size[1] for result in found] == [width for width in widths if width != 7]
    assert failed == [width for width in widths if width == 7]


def test_large_images_are_scored_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr("piclip.io.reading._PIXELS_AT_ONCE", 10)
    picky = Picky(None)
    support = Support(np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), bool))
    model = FewShotSegmenter(picky).fit(support, name="thing")
    model.predict(
        [Image.new("RGB", (width, 1)) for width in (4, 4, 4, 20, 1, 1, 1, 1)], batch_size=3
    )
    assert picky.asked == [2, 1, 1, 3, 1]


def test_results_do_not_hold_the_scores_of_all_pixels(segmenter, episode):
    model = segmenter.unfitted()
    model.fit({f"cat {n}": supports(episode) for n in range(8)})
    large = Image.fromarray(episode.query.image).resize((900, 700))
    (result,) = model.predict([large])
    assert len(pickle.dumps(replace(result, image=None))) < result.score_maps.shape[0] * 900 * 700
    kept = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(kept.scores, result.scores)
    np.testing.assert_array_equal(kept.class_map, result.class_map)


def test_kept_encodings_change_nothing(segmenter, episode):
    plain = FewShotSegmenter(segmenter.encoder).fit(supports(episode, 2), name="cat")
    model = FewShotSegmenter(TrainingFreeScorer(segmenter.encoder, cache=MemoryCache()))
    model.fit(supports(episode), name="cat").fit(supports(episode, 2), name="cat")
    one, other = (m.predict(episode.query.image)[0] for m in (plain, model))
    np.testing.assert_array_equal(one.scores, other.scores)


def test_a_contrast_of_one_name_is_one_name(segmenter, episode):
    model = fitted(segmenter, episode)
    one, other, letters = (
        model.predict(episode.query.image, contrast=contrast)[0].priors.visual_text
        for contrast in ("horse", ["horse"], list("horse"))
    )
    assert np.array_equal(one, other)
    assert not np.array_equal(one, letters)


def test_classes_are_forgotten_by_name_or_all(segmenter, episode):
    model = fitted(segmenter, episode)
    model.fit(supports(episode), name="other")
    assert model.forget(episode.name).classes == ("other",)
    with pytest.raises(UsageError, match="no class 'horse' to forget; those learned are: other"):
        model.forget("horse")
    assert model.unfitted().recall(model, "other").classes == ("other",)
    with pytest.raises(UsageError, match="same model that has learned it"):
        model.unfitted().recall(model, "horse")
    assert model.reset().classes == ()


def test_a_segmenter_moves_with_what_it_learned(episode):
    model = FewShotSegmenter.from_pretrained("builtin", device="cpu", dtype=torch.float32)
    model.fit(supports(episode), name=episode.name)
    assert model.to("meta") is model and model.device.type == "meta"
    memory = model._memories[episode.name]
    assert {t.device.type for t in model.scorer.tensors(memory).values()} == {"meta"}
    with pytest.raises(UsageError, match="cannot be used here"):
        model.to("nowhere")


def test_a_subclass_loads_as_itself(segmenter, episode, tmp_path):
    class Own(FewShotSegmenter):
        pass

    folder = fitted(segmenter, episode).save(tmp_path / "saved")
    assert type(Own.from_pretrained("builtin", device="cpu")) is Own
    assert type(Own.load(folder, device="cpu").unfitted()) is Own


def test_the_revision_is_kept_with_what_was_learned(segmenter, episode, tmp_path, monkeypatch):
    model = fitted(segmenter, episode)
    monkeypatch.setattr(model.encoder, "revision", "v1")
    folder = model.save(tmp_path / "saved")
    asked = []
    load = library_load(asked)
    monkeypatch.setattr("piclip.clip.encoder.load_clip", load)
    loaded = FewShotSegmenter.load(folder, device="cpu", cache_dir="here", local_files_only=True)
    assert loaded.classes == model.classes
    assert asked == [{"revision": "v1", "cache_dir": "here", "local_files_only": True}]


def library_load(asked):
    from piclip.clip.checkpoints import load_clip

    def load(name, **options):
        asked.append(options)
        return load_clip(name)

    return load
