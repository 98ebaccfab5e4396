"""What a person gives to the page in a real browser: paint, masks, images, and what is refused."""

import re
import zipfile

import numpy as np
import pytest
from browsing import download, open_page, playwright, scene, wait_for_results
from PIL import Image

from decoder_folders import trained
from piclip.app.server import Settings, serve

pytestmark = pytest.mark.slow

DROP_HERE = "Drop an image here"


def choose_on_canvas(page, image):
    page.locator("#editor").get_by_text(DROP_HERE).wait_for()
    page.locator("#editor input[type=file]").first.set_input_files(str(image))


def paint(page, image):
    """Choose an image and draw a stroke of 80 pixels of the screen through its middle."""
    choose_on_canvas(page, image)
    page.locator("#editor").get_by_text(DROP_HERE).wait_for(state="hidden")
    canvas = page.locator("#editor canvas").first
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(1000)  # the image moves into its place, which nothing tells
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 40, y)
    page.mouse.down()
    for step in range(9):
        page.mouse.move(x - 40 + 10 * step, y + (step % 2) * 6)
    page.mouse.up()
    playwright.expect(page.get_by_role("button", name="Undo")).to_be_enabled()


def session_of(served, requests):
    """The session behind a page, whose name the page sends with each request."""
    found = (re.search(r"session_hash=(\w+)", url) for url in requests)
    return served.sessions.of(None, next(match[1] for match in found if match))


def message(page):
    toast = page.locator(".toast-body").first
    toast.wait_for()
    return toast.inner_text()


def test_paint_on_an_own_image_and_segment_another(browser, served, tmp_path):
    page, requests = open_page(browser, served)
    page.get_by_label("What is it?").fill("cat")
    paint(page, scene(tmp_path, 0)[0])
    page.locator("#add").click()
    playwright.expect(page.get_by_text("Labelled so far: cat: 1")).to_be_visible()
    playwright.expect(page.locator("#editor")).to_contain_text(DROP_HERE)  # ready for the next one
    mask = session_of(served, requests).examples[0].mask
    rows, columns = np.nonzero(mask)
    assert mask.shape == (512, 512)
    # A stroke of 120 pixels through the middle, which is shown at 66%.
    assert abs(columns.mean() - 256) < 15 and abs(rows.mean() - 256) < 15
    assert 100 < np.ptp(columns) < 180 and 10 < np.ptp(rows) < 70
    page.locator("#query-files input[type=file]").set_input_files(
        [str(scene(tmp_path, index)[0]) for index in (1, 2)]
    )
    playwright.expect(page.get_by_text("2 images to segment")).to_be_visible()
    page.locator("#run").click()
    wait_for_results(page, 2)
    path, _ = download(page, "#get-zip")
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["classes.txt", "masks/scene1.png", "masks/scene2.png"]
        with archive.open("masks/scene1.png") as file:
            assert Image.open(file).size == (512, 512)
    page.close()


def test_a_canvas_that_is_too_large_is_told_and_the_next_one_is_taken(page, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.jpg", quality=60)
    assert (tmp_path / "noise.jpg").stat().st_size < 1_000_000  # but not as PNG
    page.get_by_label("What is it?").fill("cat")
    paint(page, tmp_path / "noise.jpg")
    page.locator("#add").click()
    assert "the painted image is larger than this page takes" in message(page)
    page.locator("#editor").get_by_label("Clear canvas").click()
    paint(page, scene(tmp_path, 0)[0])
    page.locator("#add").click()
    playwright.expect(page.get_by_text("Labelled so far: cat: 1")).to_be_visible()


def test_a_file_that_the_canvas_cannot_show_is_told(page, tmp_path):
    (tmp_path / "notes.png").write_text("not an image")
    choose_on_canvas(page, tmp_path / "notes.png")
    assert "This browser cannot open that file as an image" in message(page)


def test_a_file_that_is_too_large_is_told(page, tmp_path):
    (tmp_path / "large.png").write_bytes(bytes(1_100_000))
    page.locator("#query-files input[type=file]").set_input_files(str(tmp_path / "large.png"))
    assert "exceed the maximum allowed size" in message(page)


def label_by_masks(page, tmp_path, *names):
    page.get_by_role("tab", name="Upload masks").click()
    for index, name in enumerate(names):
        image, mask = scene(tmp_path, index)
        page.get_by_label("What is it?").fill(name)
        page.locator("#label-images input[type=file]").set_input_files(str(image))
        page.locator("#label-masks input[type=file]").set_input_files(str(mask))
        playwright.expect(page.locator("#label-masks")).to_contain_text(".png")
        page.get_by_role("button", name="Add these labels").click()
        playwright.expect(page.get_by_text(f"{name}: 1")).to_be_visible()
    page.locator("#query-files input[type=file]").set_input_files(str(scene(tmp_path, 2)[0]))
    playwright.expect(page.get_by_text("1 image to segment")).to_be_visible()
    page.locator("#run").click()
    wait_for_results(page, 1)


def test_uploaded_masks_and_a_second_class(page, tmp_path):
    label_by_masks(page, tmp_path, "cat", "another cat")
    playwright.expect(page.get_by_label("another cat")).to_be_visible()


def test_a_trained_decoder_has_no_priors_and_the_next_model_has(browser, tmp_path):
    with serve(Settings(model=str(trained(tmp_path / "run")))) as served:
        page, _ = open_page(browser, served)
        label_by_masks(page, tmp_path, "cat", "another cat")
        page.locator("#result img").wait_for()
        assert page.get_by_label("another cat").count() == 0  # no choice of a class to see
        page.get_by_role("tab", name="Together").click()
        playwright.expect(page.get_by_text("A trained decoder keeps no priors")).to_be_visible()
        assert page.locator("#prior-fused img").count() == 0
        page.get_by_role("button", name="Cats").click()
        wait_for_results(page, 6)
        page.locator("#prior-fused img").wait_for()
        playwright.expect(page.get_by_text("What both say, before")).to_be_visible()
        page.close()


def test_errors_are_messages(page, tmp_path):
    page.locator("#run").click()
    assert "Label at least one image first (step 1)." in message(page)
    assert "Traceback" not in page.content()
    playwright.expect(page.locator("#run")).to_be_enabled()


def test_a_file_that_is_no_image_is_named(page, tmp_path):
    (tmp_path / "notes.png").write_text("not an image")
    page.locator("#query-files input[type=file]").set_input_files(str(tmp_path / "notes.png"))
    assert "notes.png: this is not an image" in message(page)
