"""The session behind the page, without a browser: what it takes, refuses, computes and deletes."""

import json
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from piclip import Support
from piclip.app.answers import PREVIEW_PIXELS
from piclip.app.example_scenes import EXAMPLES, load_example
from piclip.app.files import coco_json, masks_zip, pair_by_name
from piclip.app.models import BUILTIN, Models, hint
from piclip.app.painting import painted_mask
from piclip.app.session import AppSession, Limits, Sessions
from piclip.datasets.scenes import make_scene
from piclip.errors import ImageError, MaskError, ModelError, UsageError
from piclip.figures.panels import heat


@pytest.fixture(scope="module")
def model():
    return Models().load(BUILTIN)


@pytest.fixture
def session(tmp_path):
    return AppSession(tmp_path / "session", Limits(images=3, examples=4, classes=2))


def scene(index, name="cat"):
    return make_scene(77, index, include=name)


def saved(tmp_path, index, file_name, size=None):
    path = tmp_path / file_name
    path.parent.mkdir(exist_ok=True, parents=True)
    image = Image.fromarray(scene(index).image)
    (image.resize(size) if size else image).save(path)
    return path


def ready(session, tmp_path, queries=2, names=("cat",)):
    for number, name in enumerate(names):
        labelled = scene(number, name)
        session.add_example(labelled.image, labelled.mask(name), name)
    for number in range(queries):
        session.add_query(saved(tmp_path, 10 + number, f"query{number}.png"))
    return session


def finish(session, model):
    return list(session.run(model))


def test_results_are_those_of_the_segmenter_at_every_threshold(session, tmp_path, model):
    ready(session, tmp_path)
    session.add_query(saved(tmp_path, 12, "wide.png", (190, 77)))
    steps = finish(session, model)
    assert [step.done for step in steps] == [0, 1, 2, 3] and {s.total for s in steps} == {3}

    labelled = scene(0)
    segmenter = model.unfitted().fit([Support(labelled.image, labelled.mask("cat"))], name="cat")
    expected = segmenter.predict([query.path for query in session.queries])
    for answer, whole in zip(session.answers, expected, strict=True):
        # The file keeps ten bits of the scores: only pixels that close to the threshold may differ,
        # and none passes that did not.
        for threshold in (0.2, session.threshold, 0.8, 1):
            unsure = np.abs(whole.score - threshold) < 1e-3
            ours = answer.at_threshold(threshold).class_map
            right = whole.at_threshold(threshold).class_map
            assert np.array_equal(ours[~unsure], right[~unsure])
            assert not (ours[right == 0]).any()
        assert max(answer.preview.size) == PREVIEW_PIXELS
        preview = answer.preview.mask.mean()
        assert abs(preview - whole.mask.mean()) < 0.02


def test_moving_the_threshold_computes_no_features(session, tmp_path, model, monkeypatch):
    finish(ready(session, tmp_path), model)

    def refuse(*_, **__):
        raise AssertionError("the encoder was asked again")

    monkeypatch.setattr(type(model.encoder), "encode", refuse)
    preview = session.answer(0).preview
    shares = [preview.at_threshold(t, min_presence=0).mask.mean() for t in (0, 0.3, 0.6, 1)]
    assert shares[0] == 1 and shares == sorted(shares, reverse=True) and shares[-1] < shares[1]
    masks_zip(session, 0.4)


def test_the_least_presence_decides_what_is_shown_and_taken_home(session, tmp_path, model):
    from piclip.app.handlers import _result

    finish(ready(session, tmp_path), model)
    said = session.answer(0).preview.presence_by_class["cat"]
    for least, some in ((said - 1e-3, True), (said + 1e-3, False)):
        session.min_presence, session.threshold = least, 0.0
        _, text = _result(session, 0)
        assert f"cat {some:.1%} (presence {said:.2f})" in text
        with (
            zipfile.ZipFile(masks_zip(session, 0.0)) as archive,
            archive.open("masks/query0.png") as file,
        ):
            assert (np.asarray(Image.open(file)) > 0).all() == some
        image = json.loads(coco_json(session, 0.0).read_text())["images"][0]
        assert image["presence"] == {"cat": said}


def test_several_classes_and_the_downloads(session, tmp_path, model):
    ready(session, tmp_path, names=("cat", "star"))
    finish(session, model)
    assert session.answers[0].preview.class_names == ("cat", "star")
    expected = [answer.at_threshold(0.45).class_map for answer in session.answers]
    with zipfile.ZipFile(masks_zip(session, 0.45)) as archive:
        assert archive.namelist() == ["classes.txt", "masks/query0.png", "masks/query1.png"]
        assert archive.read("classes.txt").decode() == "1\tcat\n2\tstar\n"
        for number, class_map in enumerate(expected):
            with archive.open(f"masks/query{number}.png") as file:
                assert np.array_equal(np.asarray(Image.open(file)), class_map)

    coco = json.loads(coco_json(session, 0.45).read_text())
    assert [image["file_name"] for image in coco["images"]] == ["query0.png", "query1.png"]
    assert [category["name"] for category in coco["categories"]] == ["cat", "star"]
    areas = {image["id"]: 0 for image in coco["images"]}
    for annotation in coco["annotations"]:
        areas[annotation["image_id"]] += annotation["area"]
    assert list(areas.values()) == [int((class_map > 0).sum()) for class_map in expected]
    assert not [path for path in session.folder.iterdir() if path.is_dir()]


def test_a_run_can_be_stopped_and_started_again(session, tmp_path, model):
    ready(session, tmp_path, queries=3)
    run = session.run(model)
    assert next(run).done == 0 and next(run).done == 1
    with pytest.raises(UsageError, match="going on already"):
        next(session.run(model))
    session.stop()
    assert list(run) == [] and len(session.answers) == 1 and not session.running
    assert finish(session, model)[-1].done == 3 and len(session.answers) == 3


def test_closing_during_a_run_ends_it_and_deletes_everything(session, tmp_path, model):
    ready(session, tmp_path)
    run = session.run(model)
    next(run)
    next(run)
    session.close()
    assert list(run) == []
    assert not session.folder.exists()
    with pytest.raises(UsageError, match="closed"):
        session.add_query(saved(tmp_path, 1, "late.png"))


def test_an_image_removed_during_a_run_gets_no_result(session, tmp_path, model):
    ready(session, tmp_path, queries=3)
    run = session.run(model)
    next(run)
    session.remove_query(1)
    list(run)
    assert [answer.query.name for answer in session.answers] == ["query0", "query2"]
    assert session.failures == []


def test_what_is_missing_is_said(session, tmp_path, model):
    with pytest.raises(UsageError, match="Label at least one image"):
        next(session.run(model))
    with pytest.raises(UsageError, match="no result to download"):
        masks_zip(session, 0.5)
    with pytest.raises(UsageError, match="no such result"):
        session.answer(0)
    labelled = scene(0)
    session.add_example(labelled.image, labelled.mask("cat"), "cat")
    with pytest.raises(UsageError, match="Add at least one image"):
        next(session.run(model))


@pytest.mark.parametrize(
    ("name", "message"), [("  ", "Name what you marked"), ("x" * 61, "longer than 60")]
)
def test_class_names_are_checked(session, name, message):
    labelled = scene(0)
    with pytest.raises(UsageError, match=message):
        session.add_example(labelled.image, labelled.mask("cat"), name)
    assert session.examples == []


def test_limits_hold(session, tmp_path):
    labelled = scene(0)
    for name in ("cat", "a  small dog", "cat", " cat "):
        session.add_example(labelled.image, labelled.mask("cat"), name)
    assert session.class_names == ("cat", "a small dog")
    with pytest.raises(UsageError, match="takes 4 labelled"):
        session.add_example(labelled.image, labelled.mask("cat"), "cat")
    session.remove_example(3)
    with pytest.raises(UsageError, match="takes 2 classes"):
        session.add_example(labelled.image, labelled.mask("cat"), "a third")
    ready(session, tmp_path, queries=3, names=())
    with pytest.raises(UsageError, match="takes 3 images"):
        session.add_query(saved(tmp_path, 1, "fourth.png"))


def test_the_pixels_of_all_labelled_images_together_are_limited(tmp_path):
    labelled = scene(0)
    pixels = 2 * labelled.mask("cat").size
    session = AppSession(tmp_path / "session", Limits(labelled_pixels=pixels))
    for _ in range(2):
        session.add_example(labelled.image, labelled.mask("cat"), "cat")
    with pytest.raises(UsageError, match="million pixels of labelled images"):
        session.add_example(labelled.image, labelled.mask("cat"), "cat")
    assert len(session.examples) == 2


def test_files_that_are_no_images_are_refused_by_their_own_name(session, tmp_path):
    path = tmp_path / "secret-folder" / "notes.png"
    path.parent.mkdir()
    path.write_text("not an image")
    with pytest.raises(ImageError, match=r"^notes\.png: this is not an image"):
        session.add_query(path)
    labelled = scene(0)
    with pytest.raises(MaskError, match="the mask is 5 x 4 pixels"):
        session.add_example(labelled.image, np.ones((4, 5), dtype=bool), "cat")


def test_two_files_of_one_name_get_two_results(session, tmp_path):
    for folder in ("a", "b"):
        session.add_query(saved(tmp_path, 1, f"{folder}/same.png"))
    assert [query.file_name for query in session.queries] == ["same.png", "same-2.png"]


@pytest.mark.parametrize("title", EXAMPLES)
def test_examples_are_complete(tmp_path, title):
    session = AppSession(tmp_path / "session", Limits())
    paper = load_example(session, title)
    assert session.class_names == EXAMPLES[title][0]
    assert len(session.queries) == 6 and max(paper.size) == 512
    with pytest.raises(UsageError, match="no example"):
        load_example(session, "Dragons")


def test_an_example_takes_the_place_of_everything(session, tmp_path, model):
    session = AppSession(tmp_path / "roomy", Limits())
    finish(ready(session, tmp_path), model)
    load_example(session, "Cats")
    assert session.answers == [] and len(session.examples) == 1 and len(session.queries) == 6


def test_sessions_do_not_mix_and_their_files_go(tmp_path):
    sessions = Sessions(tmp_path, Limits())
    one, two = sessions.of(None, "one"), sessions.of(None, "two")
    assert one is sessions.of(None, "one") and one is not two
    assert sessions.of("anna", "one") is not sessions.of("bert", "one")
    assert len({one.folder, two.folder}) == 2
    sessions.close(None, "one")
    assert not one.folder.exists() and two.folder.exists()
    assert sessions.of(None, "one") is not one
    sessions.close_all()
    assert len(sessions) == 0 and list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="session_hash"):
        sessions.of(None, None)


def test_what_a_closed_tab_sent_goes_with_it_and_what_others_sent_stays(tmp_path):
    browser = tmp_path / "browser"
    browser.mkdir()
    sessions = Sessions(tmp_path / "sessions", Limits(), browser)
    first = sessions.of(None, "first")
    sent = browser / "a" / "photo.jpg"
    sent.parent.mkdir()
    sent.write_bytes(b"first's")
    second = sessions.of(None, "second")
    for session, later in ((first, 0), (second, 20)):
        session.began = sent.stat().st_mtime - 10 + later
    own = browser / "photo.jpg"
    own.write_bytes(b"second's")
    os.utime(own, (second.began + 1,) * 2)
    sessions.close(None, "unknown")
    assert sent.exists()
    sessions.close(None, "first")
    assert not sent.exists() and own.exists()
    sessions.close(None, "second")
    assert not own.exists()


def test_paint_becomes_a_mask():
    layers = [np.zeros((6, 8, 4), dtype=np.uint8) for _ in range(2)]
    layers[0][1:3, 2:4] = (213, 94, 0, 153)
    layers[1][5, 7, 3] = 255
    layers[1][0, 0, 3] = 30  # a brush's soft border
    mask = np.asarray(painted_mask(layers, (6, 8)))
    expected = np.zeros((6, 8), dtype=bool)
    expected[1:3, 2:4] = expected[5, 7] = True
    assert np.array_equal(mask == 255, expected) and set(np.unique(mask)) == {0, 255}
    with pytest.raises(MaskError, match="Nothing is painted"):
        painted_mask([np.zeros((6, 8, 4), dtype=np.uint8)], (6, 8))


def test_heat_is_brighter_where_the_prior_is_higher():
    image = Image.new("RGB", (80, 40), (90, 90, 90))
    values = np.zeros((4, 8), dtype=np.float32)
    values[:, 4:] = 1
    pixels = np.asarray(heat(image, values)).sum(axis=2)
    assert pixels[:, :20].max() < pixels[:, 60:].min()


def test_masks_are_paired_with_images_by_name():
    pairs = pair_by_name(["x/b.jpg", "x/A.jpg"], ["y/a.png", "y/B.png"])
    assert [(image.name, mask.name) for image, mask in pairs] == [
        ("b.jpg", "B.png"),
        ("A.jpg", "a.png"),
    ]
    assert len(pair_by_name(["zebra.jpg"], ["mask.png"])) == 1
    for images, masks in ((["a.jpg"], []), (["a.jpg", "b.jpg"], ["a.png", "c.png"])):
        with pytest.raises(UsageError, match="mask"):
            pair_by_name(images, masks)


def test_a_page_for_others_offers_only_its_own_models():
    closed = Models("openai/clip-vit-base-patch16", any_model=False)
    assert closed.choices == ("openai/clip-vit-base-patch16", "builtin")
    with pytest.raises(ModelError, match="offers only"):
        closed.load("/etc")
    assert "trying only" in hint(BUILTIN) and "trying only" not in hint("some/model")
