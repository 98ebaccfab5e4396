"""Whatever is wrong ends in one sentence and the right exit code; awkward files just work."""

import errno
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import piclip as library
from piclip.datasets.scenes import make_scene
from piclip.training_free.scorer import TrainingFreeScorer


def scene_image(number=0):
    return Image.fromarray(make_scene(7, number, include="cat").image)


def statuses(world):
    data = json.loads((world.output / "results.json").read_text(encoding="utf-8"))
    return {Path(entry["file"]).name: entry for entry in data["images"]}


def claiming_to_be(png, width, height):
    """The same PNG file with another size in its header."""
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def test_an_empty_mask(piclip, world):
    Image.new("L", (128, 128)).save(world.mask)
    ran = piclip(*world.command())
    assert ran.code == 1
    assert "mask.png" in ran.sentence
    assert "no object" in ran.sentence
    assert not world.output.exists()


def test_a_mask_of_another_size_names_both(piclip, world):
    Image.new("L", (64, 32), 255).save(world.mask)
    ran = piclip(*world.command())
    assert ran.code == 1
    assert "64 x 32" in ran.sentence
    assert "128 x 128" in ran.sentence


def test_an_object_far_smaller_than_a_patch_is_not_lost(piclip, world):
    scene_image().resize((1000, 700)).save(world.support)
    mask = np.zeros((700, 1000), dtype=np.uint8)
    mask[350, 501] = 255
    Image.fromarray(mask).save(world.mask)
    assert piclip(*world.command()).code == 0
    assert {entry["status"] for entry in statuses(world).values()} == {"done"}


@pytest.mark.parametrize(
    ("name", "words"),
    [("./no/such/folder", "no/such/folder"), ("nobody/no-such-clip", "nobody/no-such-clip")],
)
def test_a_model_that_is_not_there(piclip, world, monkeypatch, name, words):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ran = piclip(*world.command("--model", name))
    assert ran.code == 1
    assert words in ran.sentence
    assert not world.output.exists()


@pytest.mark.parametrize("what", ["support", "mask", "photos"])
def test_a_file_that_is_not_there(piclip, world, what):
    missing = getattr(world, what)
    missing.rename(world.folder / "elsewhere")
    ran = piclip(*world.command())
    assert ran.code == 1
    assert missing.name in ran.sentence


@pytest.mark.parametrize("where", ["support", "mask"])
def test_a_support_that_is_no_image(piclip, world, where):
    getattr(world, where).write_text("not an image")
    ran = piclip(*world.command())
    assert ran.code == 1
    assert f"{where}.png" in ran.sentence


def test_bad_queries_are_skipped_and_listed(piclip, world):
    whole = (world.photos / "photo1.png").read_bytes()
    (world.photos / "empty.jpg").write_bytes(b"")
    (world.photos / "cut.png").write_bytes(whole[: len(whole) // 2])
    (world.photos / "text.jpg").write_text("hello")
    (world.photos / "notes.txt").write_text("not even tried")
    Image.new("1", (9000, 6000)).save(world.photos / "large.png")  # 54 megapixels
    (world.photos / "bomb.png").write_bytes(claiming_to_be(whole, 100_000, 100_000))
    ran = piclip(*world.command("--batch-size", 2))
    assert ran.code == 1
    assert "Traceback" not in ran.err
    assert "3 of 8 images segmented" in ran.err
    found = statuses(world)
    failed = {name for name, entry in found.items() if entry["status"] == "failed"}
    assert failed == {"empty.jpg", "cut.png", "text.jpg", "large.png", "bomb.png"}
    for name in failed:
        assert name in ran.err
        assert name in found[name]["reason"]
        assert not (world.output / f"{Path(name).stem}.png").exists()
    assert (
        "--max-pixels" in found["large.png"]["reason"]
        or "max_pixels" in found["large.png"]["reason"]
    )


def test_a_repaired_file_is_tried_again(piclip, world):
    (world.photos / "photo1.png").write_bytes(b"")
    assert piclip(*world.command()).code == 1
    scene_image(1).save(world.photos / "photo1.png")
    ran = piclip(*world.command())
    assert ran.code == 0
    assert "2 from an earlier run" in ran.err


def test_the_limit_of_pixels_is_an_option(piclip, world):
    ran = piclip(*world.command("--max-pixels", 128 * 128))
    assert ran.code == 0
    scene_image().resize((200, 200)).save(world.photos / "photo2.png")
    ran = piclip(*world.command("--max-pixels", 128 * 128))
    assert ran.code == 1
    assert statuses(world)["photo2.png"]["status"] == "failed"
    assert piclip(*world.command()).code == 0


def test_a_full_disk_keeps_what_is_done(piclip, world, monkeypatch):
    write = Path.write_bytes
    written = []

    def until_full(path, data):
        if path.suffix == ".png":
            written.append(path)
            if len(written) > 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", until_full)
        ran = piclip(*world.command())
    assert ran.code == 1
    assert "full" in ran.sentence
    assert [path.name for path in world.output.glob("*.png")] == ["photo1.png"]
    assert statuses(world).keys() == {"photo1.png"}
    ran = piclip(*world.command())
    assert ran.code == 0
    assert "1 from an earlier run" in ran.err


def test_an_output_that_is_no_folder(piclip, world):
    world.output.write_text("a file")
    ran = piclip(*world.command())
    assert ran.code == 1
    assert "out" in ran.sentence


def test_a_read_only_output(piclip, world, monkeypatch):
    world.output.mkdir()
    # For root every folder is writable, so that its rights alone would not do.
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    ran = piclip(*world.command())
    assert ran.code == 1
    assert "permission" in ran.sentence


AWKWARD = {
    "16 bit.png": lambda i: Image.fromarray(np.asarray(i.convert("L")).astype(np.uint16) * 257),
    "palette.gif": lambda i: i.quantize(16),
    "bilevel.tif": lambda i: i.convert("1"),
    "gray.jpg": lambda i: i.convert("L"),
    "alpha.webp": lambda i: i.convert("RGBA"),
    "druck-CMYK.jpg": lambda i: i.convert("CMYK"),
    "one pixel.png": lambda i: i.resize((1, 1)),
    "strip.png": lambda i: i.resize((7, 900)),
    "斑马 写真.png": lambda i: i,
    "зебра.bmp": lambda i: i,
}


def test_awkward_files_give_masks_of_the_size_that_a_viewer_shows(piclip, world):
    photos = world.folder / "awkward"
    photos.mkdir()
    base = scene_image().resize((80, 60))
    sizes = {}
    for name, change in AWKWARD.items():
        image = change(base)
        image.save(photos / name)
        sizes[name] = image.size
    exif = Image.Exif()
    exif[0x0112] = 6
    base.save(photos / "turned.jpg", exif=exif)
    sizes["turned.jpg"] = (60, 80)
    base.save(photos / "moving.gif", save_all=True, append_images=[base.rotate(90)] * 2)
    sizes["moving.gif"] = (80, 60)
    assert piclip(*world.command(query=photos)).code == 0
    found = statuses(world)
    assert found.keys() == sizes.keys()
    for name, entry in found.items():
        assert Image.open(world.output / entry["mask"]).size == sizes[name], name
        assert Path(entry["mask"]).stem == Path(name).stem


def test_one_image_that_the_model_refuses_does_not_spoil_its_batch(piclip, world, monkeypatch):
    score = TrainingFreeScorer.score
    refused = Image.open(world.photos / "photo2.png").tobytes()

    def picky(self, images, **options):
        if any(image.tobytes() == refused for image in images):
            raise library.errors.ImageError("This image is refused; take another.")
        return score(self, images, **options)

    monkeypatch.setattr(TrainingFreeScorer, "score", picky)
    assert piclip(*world.command()).code == 1
    assert {name: entry["status"] for name, entry in statuses(world).items()} == {
        "photo1.png": "done",
        "photo2.png": "failed",
        "photo3.png": "done",
    }


def test_a_query_that_vanishes_meanwhile_does_not_end_the_job(piclip, world, monkeypatch):
    score = TrainingFreeScorer.score

    def slow(self, images, **options):
        (world.photos / "photo2.png").unlink(missing_ok=True)
        return score(self, images, **options)

    monkeypatch.setattr(TrainingFreeScorer, "score", slow)
    ran = piclip(*world.command())
    assert ran.code == 1
    assert "Unexpected" not in ran.err
    found = statuses(world)
    assert {name: entry["status"] for name, entry in found.items()} == {
        "photo1.png": "done",
        "photo2.png": "failed",
        "photo3.png": "done",
    }
    assert "no such file" in found["photo2.png"]["reason"]


@pytest.mark.parametrize("what", ["support", "mask"])
def test_a_pipe_instead_of_an_example(piclip, world, what):
    getattr(world, what).unlink()
    os.mkfifo(getattr(world, what))
    ran = piclip(*world.command())
    assert ran.code == 1
    assert "not a regular file" in ran.sentence


@pytest.mark.parametrize("option", ["--model", "--query", "--output"])
def test_a_name_that_is_too_long(piclip, world, option):
    ran = piclip(*world.command(option, world.folder / ("x" * 300)))
    assert ran.code == 1
    assert "too long" in ran.sentence
    assert "Unexpected" not in ran.sentence
