"""``piclip segment``: what it writes, and that a second run goes on where the first stopped."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import piclip as library
from piclip.cli.options import examples, paired
from piclip.datasets.scenes import make_scene
from piclip.errors import UsageError
from piclip.io import decoding
from piclip.training_free.scorer import TrainingFreeScorer
from tiff_files import write_tiff


def record(world):
    return json.loads((world.output / "results.json").read_text(encoding="utf-8"))


def masks(world):
    return {path.name: path.read_bytes() for path in world.output.glob("*.png")}


def test_masks_overlays_and_results_are_written(piclip, world):
    ran = piclip(*world.command("--overlay", "--json"))
    assert ran.code == 0
    assert json.loads(ran.out) == record(world)
    entries = record(world)["images"]
    assert [entry["file"] for entry in entries] == [str(p) for p in sorted(world.photos.iterdir())]
    for entry in entries:
        mask = np.asarray(Image.open(world.output / entry["mask"]))
        assert mask.shape == (entry["height"], entry["width"]) == (128, 128)
        assert set(np.unique(mask)) <= {0, 255}
        assert entry["share"] == pytest.approx((mask > 0).mean(), abs=1e-5)
        assert Image.open(world.output / entry["overlay"]).size == (128, 128)
    assert "3 of 3 images segmented" in ran.err


def test_the_command_line_gives_what_the_library_gives(piclip, world):
    assert piclip(*world.command("--threshold", "0.4")).code == 0
    segmenter = library.FewShotSegmenter.from_pretrained(
        str(world.model), device="cpu", dtype="float32"
    )
    segmenter.fit([library.Support(world.support, world.mask)], name="cat")
    for result in segmenter.predict(sorted(world.photos.iterdir()), threshold=0.4):
        written = np.asarray(Image.open(world.output / f"{result.name}.png")) > 0
        np.testing.assert_array_equal(written, result.mask)


def test_masks_are_cleaned_as_the_library_cleans(piclip, world):
    cleaned = ("--min-area", "0.1%", "--largest", "--fill-holes")
    assert piclip(*world.command("--threshold", "0.4", *cleaned)).code == 0
    segmenter = library.FewShotSegmenter.from_pretrained(
        str(world.model), device="cpu", dtype="float32"
    )
    segmenter.fit([library.Support(world.support, world.mask)], name="cat")
    for found in segmenter.predict(sorted(world.photos.iterdir()), threshold=0.4):
        result = found.cleaned(min_area="0.1%", largest=True, fill_holes=True)
        written = np.asarray(Image.open(world.output / f"{result.name}.png")) > 0
        np.testing.assert_array_equal(written, result.mask)
    for entry in record(world)["images"]:
        mask = np.asarray(Image.open(world.output / entry["mask"])) > 0
        assert entry["share"] == pytest.approx(mask.mean(), abs=1e-5)
    ran = piclip(*world.command("--threshold", "0.4", *cleaned[2:]))
    assert "other settings (min_area)" in ran.sentence
    assert piclip(*world.command("--min-area", "many")).code == 2


def test_a_run_may_be_a_table_and_asking_for_it_computes_nothing(piclip, world, predicted):
    (world.photos / "broken.png").write_bytes(b"nothing")
    assert piclip(*world.command()).code == 1
    predicted.clear()
    table = world.folder / "table.csv"
    assert piclip(*world.command("--csv", table)).code == 1
    assert sum(predicted) == 0
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    segmenter = library.FewShotSegmenter.from_pretrained(
        str(world.model), device="cpu", dtype="float32"
    )
    segmenter.fit([library.Support(world.support, world.mask)], name="cat")
    photos = sorted(world.photos.glob("photo*.png"))
    assert [(row["image"], row["class"]) for row in rows] == [(str(path), "cat") for path in photos]
    for row, result in zip(rows, segmenter.predict(photos), strict=True):
        assert float(row["share"]) == pytest.approx(result.mask.mean(), abs=1e-5)
        assert float(row["presence"]) == pytest.approx(result.presence[0], abs=1e-3)
        mean = result.scores[0][result.mask].mean() if result.mask.any() else None
        assert (float(row["mean_score"]) if row["mean_score"] else None) == pytest.approx(
            mean, abs=1e-4
        )
    (world.folder / "folder.csv").mkdir()
    ran = piclip(*world.command("--csv", world.folder / "folder.csv", output=world.folder / "new"))
    assert (ran.code, "a folder is where the file should be" in ran.sentence) == (1, True)
    assert not (world.folder / "new").exists()
    ran = piclip(*world.command("--csv", world.support))
    assert (ran.code, "must be a file named .csv" in ran.sentence) == (2, True)
    assert world.support.stat().st_size > 100


@pytest.mark.parametrize("command", ["segment", "priors"])
def test_every_file_is_decoded_once(piclip, world, monkeypatch, command):
    decode, decoded = decoding._loaded, []

    def counting(image, name, **more):
        decoded.append(name)
        return decode(image, name, **more)

    monkeypatch.setattr(decoding, "_loaded", counting)
    query = world.photos / "photo1.png"
    assert piclip(command, *world.command(query=query)[1:]).code == 0
    assert sorted(decoded) == sorted(map(str, [world.support, world.mask, query]))


def multispectral(path, **how):
    """The picture as a TIFF of 7 bands whose fifth, first and second are red, green and blue."""
    rgb = np.asarray(Image.open(path))
    values = np.full((*rgb.shape[:2], 7), 9, np.uint8)
    values[:, :, [4, 0, 1]] = rgb
    write_tiff(path.with_suffix(".tif"), values, **how)
    path.unlink()


@pytest.mark.parametrize("more", [(), pytest.param(("--workers", 2), marks=pytest.mark.slow)])
def test_bands_of_a_tiff_are_chosen_for_supports_and_queries(piclip, world, more):
    assert piclip(*world.command("--bands", "5,1,2", output=world.folder / "png")).code == 0
    for path in (world.support, *world.photos.iterdir()):
        multispectral(path, deflate=True)
    command = [str(a).replace("support.png", "support.tif") for a in world.command(*more)]
    ran = piclip(*command)
    assert (ran.code, "7 bands, and which of them" in ran.sentence) == (1, True)
    assert piclip(*command, "--bands", "5,1,2").code == 0
    for path in world.output.glob("*.png"):
        assert path.read_bytes() == (world.folder / "png" / path.name).read_bytes()
    ran = piclip(*command, "--bands", "2,1,5")
    assert (ran.code, "other settings (bands)" in ran.sentence) == (2, True)
    ran = piclip(*command, "--bands", "red")
    assert (ran.code, "Write --bands as numbers" in ran.sentence) == (2, True)


def test_people_read_stderr_only(piclip, world):
    ran = piclip(*world.command())
    assert ran.out == ""
    assert ran.err


def test_a_second_run_computes_nothing_again(piclip, world, predicted):
    assert piclip(*world.command()).code == 0
    before = masks(world), record(world)
    predicted.clear()
    ran = piclip(*world.command())
    assert (ran.code, predicted) == (0, [])
    assert (masks(world), record(world)) == before
    assert "3 from an earlier run" in ran.err


def test_new_changed_and_lost_ones_are_computed(piclip, world, predicted):
    piclip(*world.command())
    predicted.clear()
    Image.fromarray(make_scene(8, 0).image).save(world.photos / "photo1.png")  # changed
    (world.output / "photo2.png").unlink()  # lost
    Image.fromarray(make_scene(8, 1).image).save(world.photos / "photo4.png")  # new
    assert piclip(*world.command()).code == 0
    assert sum(predicted) == 3
    assert len(record(world)["images"]) == 4


def test_overlays_can_be_asked_for_later(piclip, world):
    piclip(*world.command())
    assert piclip(*world.command("--overlay")).code == 0
    assert len(list((world.output / "overlays").iterdir())) == 3


def test_ctrl_c_keeps_what_is_done_and_the_next_run_goes_on(piclip, world, monkeypatch, predicted):
    counting = TrainingFreeScorer.score

    def interrupted(self, images, **options):
        if predicted:
            raise KeyboardInterrupt
        return counting(self, images, **options)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingFreeScorer, "score", interrupted)
        ran = piclip(*world.command("--batch-size", 1))
    assert ran.code == 1
    assert "1 of 3 images done" in ran.sentence
    assert "again" in ran.sentence
    assert [entry["status"] for entry in record(world)["images"]] == ["done"]
    predicted.clear()
    assert piclip(*world.command("--batch-size", 1)).code == 0
    assert predicted == [1, 1]


def test_other_settings_are_not_mixed_into_old_results(piclip, world):
    piclip(*world.command("--threshold", "0.4"))
    before = masks(world), record(world)
    ran = piclip(*world.command("--threshold", "0.9"))
    assert ran.code == 2
    assert "threshold" in ran.sentence
    assert "--overwrite" in ran.sentence
    assert (masks(world), record(world)) == before
    assert piclip(*world.command("--threshold", "0.9", "--overwrite")).code == 0
    assert record(world)["settings"]["threshold"] == 0.9


def test_the_content_of_the_supports_counts_not_their_place(piclip, world, predicted):
    piclip(*world.command())
    predicted.clear()
    world.support.rename(world.folder / "moved.png")
    moved = ["moved.png" if a == world.support else a for a in world.command()]
    moved = [world.folder / a if a == "moved.png" else a for a in moved]
    assert (piclip(*moved).code, predicted) == (0, [])
    Image.fromarray(make_scene(9, 0, include="cat").image).save(world.folder / "moved.png")
    assert "classes" in piclip(*moved).sentence


def test_other_peoples_files_and_damaged_records_are_not_overwritten(piclip, world):
    world.output.mkdir()
    (world.output / "photo2.png").write_bytes(b"mine")
    ran = piclip(*world.command())
    assert ran.code == 2
    assert "photo2.png" in ran.sentence
    assert (world.output / "photo2.png").read_bytes() == b"mine"
    (world.output / "results.json").write_text("{}")
    assert "no record" in piclip(*world.command()).sentence
    assert piclip(*world.command("--overwrite")).code == 0


def test_masks_never_go_where_the_images_are(piclip, world):
    before = {path: path.read_bytes() for path in world.photos.iterdir()}
    for output in (world.photos, world.folder):
        ran = piclip(*world.command(output=output))
        assert ran.code == 2
        assert "--output" in ran.sentence
    assert {path: path.read_bytes() for path in world.photos.iterdir()} == before


def test_equal_stems_get_masks_of_their_own_and_keep_them(piclip, world):
    Image.fromarray(make_scene(8, 0).image).save(world.photos / "photo1.jpg")
    Image.fromarray(make_scene(8, 0).image).save(world.photos / "Photo1.bmp")
    other = world.folder / "other"
    other.mkdir()
    Image.fromarray(make_scene(8, 2).image).save(other / "photo1.png")
    assert piclip(*world.command("--query", other)).code == 0
    written = {entry["file"]: entry["mask"] for entry in record(world)["images"]}
    assert len(written) == len({mask.casefold() for mask in written.values()}) == 6
    Image.fromarray(make_scene(8, 3).image).save(world.photos / "photo2.webp")
    assert piclip(*world.command("--query", other)).code == 0
    later = {entry["file"]: entry["mask"] for entry in record(world)["images"]}
    assert written.items() <= later.items()
    assert len(set(later.values())) == 7


def test_several_classes_compete_in_one_class_map(piclip, world):
    second = ("--support", world.support, "--mask", world.mask, "--name", "star")
    assert piclip(*world.command(*second)).code == 0
    mask = Image.open(world.output / "photo1.png")
    assert mask.mode == "P"
    assert set(np.unique(np.asarray(mask))) <= {0, 1, 2}
    assert set(record(world)["images"][0]["shares"]) == {"cat", "star"}


def test_one_name_serves_all_examples_and_equal_names_are_one_class(tmp_path):
    a, b, c = (tmp_path / name for name in "abc")
    assert paired([a, b], [b, c], ["cat"]) == {"cat": [(a, b), (b, c)]}
    assert paired([a, b, c], [a, b, c], ["x", "y", "x"]) == {"x": [(a, a), (c, c)], "y": [(b, b)]}
    for masks_, names in (([a], ["cat"]), ([a, b], ["x", "y", "z"]), ([a, b], [" "])):
        with pytest.raises(UsageError):
            paired([a, b], masks_, names)


def test_examples_of_the_help_can_be_pasted_into_a_shell():
    command = "piclip segment " + " ".join(f"--option{k} value{k}" for k in range(12))
    lines = examples(command).splitlines()[2:]
    assert max(map(len, lines)) < 80
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert " ".join("".join(line.rstrip("\\") for line in lines).split()) == command
