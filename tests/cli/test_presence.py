"""Another ViT, presence and negatives on the command line: what the library does with the same."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from decoder_folders import trained
from piclip import FewShotSegmenter, Support
from piclip.app import example_photos
from piclip.datasets.scenes import make_scene


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """The folder of a tiny ViT without texts."""
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2}
    config = ViTConfig(**sizes, num_attention_heads=2, image_size=32, patch_size=8)
    folder = tmp_path_factory.mktemp("vit") / "tiny"
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def results(world):
    data = json.loads((world.output / "results.json").read_text(encoding="utf-8"))
    return data["settings"], {entry["mask"]: entry for entry in data["images"]}


def assert_same(world, segmenter, **options):
    """What was written is what the segmenter predicts."""
    _, entries = results(world)
    for found in segmenter.predict(sorted(world.photos.iterdir()), **options):
        written = np.asarray(Image.open(world.output / f"{found.name}.png")) > 0
        np.testing.assert_array_equal(written, found.mask)
        said = entries[f"{found.name}.png"]["presence"]
        if found.presence is None:
            assert said is None
        else:
            assert said["cat"] == pytest.approx(float(found.presence[0]), abs=1e-3)


def negative(world):
    path = world.folder / "without.png"
    Image.fromarray(make_scene(9, 3, include="star").image).save(path)
    return path


def test_segment_draws_no_class_that_is_less_likely_than_asked(piclip, world):
    segmenter = FewShotSegmenter.from_pretrained(world.model, device="cpu", dtype="float32")
    segmenter.fit(Support(world.support, world.mask), name="cat")
    images = sorted(world.photos.iterdir())
    least = float(np.median([found.presence[0] for found in segmenter.predict(images)])) + 1e-4
    assert piclip(*world.command("--min-presence", least, "--threshold", 0.3)).code == 0
    assert_same(world, segmenter, threshold=0.3, min_presence=least)
    settings, entries = results(world)
    assert settings["min_presence"] == least
    absent = [entry for entry in entries.values() if entry["presence"]["cat"] < least]
    assert absent
    assert all(entry["share"] == 0 for entry in absent)
    again = piclip(*world.command("--min-presence", 0, "--threshold", 0.3))
    assert (again.code, "min_presence" in again.sentence) == (2, True)


def test_segment_learns_from_images_without_the_class(piclip, world):
    assert piclip(*world.command("--negative", negative(world), "--negative", world.mask)).code == 0
    segmenter = FewShotSegmenter.from_pretrained(world.model, device="cpu", dtype="float32")
    without = [negative(world), world.mask]
    segmenter.fit(Support(world.support, world.mask), name="cat", negatives=without)
    assert_same(world, segmenter)
    assert len(results(world)[0]["negatives"]) == 2


def test_segment_with_the_published_evidence_tells_no_presence(piclip, world):
    assert piclip(*world.command("--evidence", "published")).code == 0
    segmenter = FewShotSegmenter.from_pretrained(
        world.model, evidence="published", device="cpu", dtype="float32"
    )
    assert_same(world, segmenter.fit(Support(world.support, world.mask), name="cat"))


@pytest.mark.parametrize("alone", [False, True])
def test_another_vit_compares_the_images(piclip, world, vit, alone):
    given = ("--model", vit) if alone else ("--visual", vit)
    assert piclip(*world.command(*given)).code == 0
    model, visual = (vit, None) if alone else (world.model, vit)
    segmenter = FewShotSegmenter.from_pretrained(
        model, visual=visual, device="cpu", dtype="float32"
    )
    assert_same(world, segmenter.fit(Support(world.support, world.mask), name="cat"))


@pytest.mark.parametrize(
    ("given", "maps"),
    [
        ("--visual", {"fused", "contrast", "visual_text", "visual_text_refined"}),
        ("--model", {"fused", "contrast"}),
    ],
)
def test_the_priors_of_another_vit(piclip, world, vit, given, maps):
    query = world.photos / "photo1.png"
    assert piclip("priors", *world.command(given, vit, query=query)[1:]).code == 0
    assert set(np.load(world.output / "photo1.priors.npz")) == maps | {"score", "mask"}


def test_published_priors(piclip, world):
    query = world.photos / "photo1.png"
    ran = piclip("priors", *world.command("--evidence", "published", query=query)[1:])
    assert ran.code == 0
    assert "visual_visual" in np.load(world.output / "photo1.priors.npz")


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--negative", "nowhere.png"], 1, "nowhere.png"),
        (["--evidence", "published", "--negative", "{support}"], 2, "no --negative"),
        (["--evidence", "guesses"], 2, "'guesses'"),
        (["--evidence", "published", "--visual", "{vit}"], 2, "leave --visual out"),
        (["--model", "{vit}", "--visual", "{vit}"], 2, "leave --visual out"),
        (["--visual", "{resnet}"], 1, "'resnet'"),
        (["--model", "{resnet}"], 1, "'resnet'"),
        (["--model", "{decoder}", "--visual", "{vit}"], 2, "leave --visual and --evidence out"),
        (["--model", "{decoder}", "--negative", "{support}"], 2, "no negatives"),
        (["--model", "{decoder}", "--negative", "{resnet}/config.json"], 2, "no negatives"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(piclip, world, vit, tmp_path, more, code, words):
    (tmp_path / "resnet").mkdir()
    (tmp_path / "resnet" / "config.json").write_text('{"model_type": "resnet"}')
    places = {"vit": vit, "resnet": tmp_path / "resnet", "support": world.support}
    if "{decoder}" in more:
        places["decoder"] = trained(tmp_path / "run")
    ran = piclip(*world.command(*(part.format(**places) for part in more)))
    assert ran.code == code
    assert words in ran.sentence


@pytest.mark.parametrize("option", ["--min-presence", "--threshold"])
@pytest.mark.parametrize("value", ["1.5", "-0.1", "nan"])
def test_shares_are_between_0_and_1(piclip, world, option, value):
    ran = piclip(*world.command(option, value))
    assert ran.code == 2
    assert f"Invalid value for '{option}'" in ran.err
    assert not world.output.exists()


def test_a_negative_that_is_no_image(piclip, world):
    broken = world.folder / "broken.png"
    broken.write_text("no image")
    ran = piclip(*world.command("--negative", broken))
    assert ran.code == 1
    assert "broken.png" in ran.sentence


def test_masks_without_object_pixels_teach_annotate_when_there_is_none(annotate, album, model):
    masks = album.folder / "masks"
    masks.mkdir()
    scenes = [make_scene(32, number, include="cat") for number in range(6)]
    Image.fromarray(scenes[0].mask("cat")).save(masks / "photo0.png")
    Image.new("L", (128, 128)).save(masks / "photo1.png")
    more = ("--format", "masks", "--name", "cat", "--output-format", "coco", "--threshold", 0.3)
    review = album.folder / "review.csv"
    ran = annotate(*more, "--min-presence", 0.2, "--review", review, labels="masks")
    assert ran.code == 0
    segmenter = FewShotSegmenter.from_pretrained(model, device="cpu", dtype="float32")
    photos = sorted(album.photos.iterdir())
    shown = Support(photos[0], scenes[0].mask("cat"))
    segmenter.fit(shown, name="cat", negatives=[photos[1]])
    expected = {s.file_name: s for s in segmenter.predict(photos[2:], threshold=0.3)}
    written = {image["file_name"]: image["presence"] for image in album.json()["images"]}
    assert written.keys() == expected.keys()
    found = album.by_path()
    with review.open(encoding="utf-8", newline="") as file:
        reviewed = {row["image"]: row for row in csv.DictReader(file)}
    for name, result in expected.items():
        presence = float(result.presence[0])
        assert written[name]["cat"] == pytest.approx(presence, abs=1e-3)
        assert float(reviewed[name]["presence of cat"]) == pytest.approx(presence, abs=1e-3)
        kept = result.at_threshold(0.3, min_presence=0.2)
        np.testing.assert_array_equal(found[name].mask_of("cat"), kept.mask)


def test_the_demo_on_photographs(piclip, vit, tmp_path):
    pytest.importorskip("gradio", reason="needs the extra [app]")
    ran = piclip("demo", tmp_path / "demo", "--photos", "--model", vit, "--json")
    assert ran.code == 0
    data = json.loads(ran.out)
    assert [image["file"] for image in data["images"]] == list(example_photos.QUERIES)
    for image in data["images"]:
        assert 0 <= image["presence"] <= 1
        file = (tmp_path / "demo/masks" / image["file"]).with_suffix(".png")
        mask = np.asarray(Image.open(file))
        assert (mask > 0).mean() == pytest.approx(image["share"], abs=1e-4)
    assert Image.open(data["figure"]).width > 800


def test_the_painted_mask_covers_the_animal_and_not_what_is_around():
    mask = example_photos.painted_mask((200, 100))
    assert mask.shape == (100, 200)
    assert mask[50, 100]
    assert not mask[:10].any()
    assert 0.5 < mask.mean() < 0.7


def test_the_demo_says_where_its_photographs_come_from(piclip, tmp_path, monkeypatch):
    without_photos = piclip("demo", tmp_path / "demo", "--visual", "somewhere")
    assert without_photos.code == 2
    assert "--photos" in without_photos.sentence
    monkeypatch.setattr(example_photos, "find_spec", lambda name: None)
    ran = piclip("demo", tmp_path / "demo", "--photos")
    assert ran.code == 2
    assert "piclip[app]" in ran.sentence
    (tmp_path / "gradio").mkdir()
    spec = type("Spec", (), {"origin": str(tmp_path / "gradio" / "__init__.py")})
    monkeypatch.setattr(example_photos, "find_spec", lambda name: spec)
    assert "cheetah1.jpg" in piclip("demo", tmp_path / "demo", "--photos").sentence
