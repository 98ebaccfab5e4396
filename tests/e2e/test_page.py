"""The page in a real browser, as a person uses it: example, paint, threshold, download, reload.

Needs Playwright (``pip install playwright``) and a Chromium at /usr/bin/chromium or where
PICLIP_CHROMIUM says.
"""

import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from piclip.app.content import Limits
from piclip.app.server import Settings, serve
from piclip.datasets.scenes import make_scene

pytestmark = pytest.mark.slow
CHROMIUM = Path(os.environ.get("PICLIP_CHROMIUM", "/usr/bin/chromium"))
PATIENCE = 180_000  # milliseconds; only a machine that is very busy needs so long

pytest.importorskip("gradio", reason="needs the extra [app]")
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
if not CHROMIUM.is_file():
    pytest.skip(f"there is no Chromium at {CHROMIUM}", allow_module_level=True)


playwright.expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served():
    with serve(Settings(limits=Limits(images=30), upload_megabytes=1)) as served:
        yield served


def open_page(browser, served, width=1280):
    """A page in a context of its own, and every request that it made."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(PATIENCE)
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(served.url)
    page.get_by_role("button", name="Cats").wait_for()
    return page, requests


@pytest.fixture
def page(browser, served):
    page, _ = open_page(browser, served)
    yield page
    page.close()


def scene(tmp_path, index, size=512):
    drawn = make_scene(79, index, include="cat")
    image, mask = tmp_path / f"scene{index}.png", tmp_path / f"mask{index}.png"
    for array, path in ((drawn.image, image), (drawn.mask("cat"), mask)):
        Image.fromarray(array).resize((size, size), Image.Resampling.NEAREST).save(path)
    return image, mask


def wait_for_results(page, count):
    playwright.expect(page.locator("#status")).to_contain_text(
        f"{count} of {count} images segmented", timeout=PATIENCE
    )
    playwright.expect(page.locator("#results .thumbnail-item")).to_have_count(count)


def use_example(page):
    page.get_by_role("button", name="Cats").click()
    wait_for_results(page, 6)


def result_source(page):
    return page.locator("#result img").get_attribute("src")


def set_threshold(page, value):
    number = page.locator("#threshold input[type=number]")
    number.fill(str(value))
    number.press("Tab")


def download(page, button):
    with page.expect_download(timeout=PATIENCE) as started:
        page.locator(button).click()
    return Path(started.value.path()), started.value.suggested_filename


def message(page):
    toast = page.locator(".toast-body").first
    toast.wait_for()
    return toast.inner_text()


def test_the_example_works_with_one_click_and_no_request_leaves(browser, served):
    page, requests = open_page(browser, served)
    use_example(page)
    page.get_by_role("tab", name="VVP refined").click()
    page.locator("#prior-visual_visual_refined img").wait_for()
    page.close()
    elsewhere = [url for url in requests if not url.startswith((served.url, "data:", "blob:"))]
    assert elsewhere == []


def test_the_slider_changes_the_result_and_the_download_follows(page):
    use_example(page)
    before = result_source(page)
    set_threshold(page, 0)
    playwright.expect(page.locator("#result img")).not_to_have_attribute("src", before)
    playwright.expect(page.get_by_text(re.compile(r"cat 100\.0%"))).to_be_visible()
    path, name = download(page, "#get-zip")
    assert name == "piclip-masks.zip"
    with zipfile.ZipFile(path) as archive, archive.open("masks/scene-1.png") as file:
        assert len(archive.namelist()) == 7
        assert (np.asarray(Image.open(file)) == 255).all()
    path, name = download(page, "#get-coco")
    coco = json.loads(path.read_text())
    assert name == "piclip-coco.json" and len(coco["images"]) == 6
    assert [annotation["area"] for annotation in coco["annotations"]] == [128 * 128] * 6
    set_threshold(page, 1)
    playwright.expect(page.get_by_text(re.compile(r"cat 0\.0%"))).to_be_visible()
    path, _ = download(page, "#get-coco")
    assert json.loads(path.read_text())["annotations"] == []


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


def test_nothing_is_wider_than_a_phone(browser, served):
    page, _ = open_page(browser, served, width=390)
    page.get_by_role("button", name="Flowers and horses").click()
    wait_for_results(page, 6)
    page.locator("#result").scroll_into_view_if_needed()  # pictures out of view do not load
    page.locator("#result img").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for button in ("#add", "#run", "#get-zip", "#get-coco"):
        box = page.locator(button).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    page.close()


def test_uploaded_masks_and_a_second_class(page, tmp_path):
    page.get_by_role("tab", name="Upload masks").click()
    for index, name in ((0, "cat"), (1, "another cat")):
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
    playwright.expect(page.get_by_label("another cat")).to_be_visible()


def test_errors_are_messages(page, tmp_path):
    page.locator("#run").click()
    assert "Label at least one image first (step 1)." in message(page)
    assert "Traceback" not in page.content()
    playwright.expect(page.locator("#run")).to_be_enabled()


def test_a_file_that_is_no_image_is_named(page, tmp_path):
    (tmp_path / "notes.png").write_text("not an image")
    page.locator("#query-files input[type=file]").set_input_files(str(tmp_path / "notes.png"))
    assert "notes.png: this is not an image" in message(page)


def test_reload_during_work_gives_a_fresh_page_and_deletes_the_old_files(browser, served, tmp_path):
    page, _ = open_page(browser, served)
    page.get_by_role("tab", name="Upload masks").click()
    image, mask = scene(tmp_path, 0)
    page.get_by_label("What is it?").fill("cat")
    page.locator("#label-images input[type=file]").set_input_files(str(image))
    page.locator("#label-masks input[type=file]").set_input_files(str(mask))
    playwright.expect(page.locator("#label-masks")).to_contain_text(".png")
    page.get_by_role("button", name="Add these labels").click()
    playwright.expect(page.get_by_text("cat: 1")).to_be_visible()
    many = [str(scene(tmp_path, index, 1024)[0]) for index in range(1, 21)]
    page.locator("#query-files input[type=file]").set_input_files(many)
    playwright.expect(page.get_by_text("20 images to segment")).to_be_visible()
    folders = set((served.folder / "sessions").iterdir())
    page.locator("#run").click()
    playwright.expect(page.locator("#status progress[value]")).to_be_visible()
    page.reload()
    use_example(page)
    for _ in range(60):  # the server learns of a closed tab by its missing heartbeat
        if len(set((served.folder / "sessions").iterdir()) & folders) < len(folders):
            break
        page.wait_for_timeout(1000)
    else:
        pytest.fail("the files of the tab that was loaded anew are still there")
    page.close()


def test_a_run_can_be_stopped(page, tmp_path):
    page.get_by_role("button", name="Cats").click()
    wait_for_results(page, 6)
    many = [str(scene(tmp_path, index, 1024)[0]) for index in range(1, 21)]
    page.locator("#query-files input[type=file]").set_input_files(many)
    playwright.expect(page.get_by_text("26 images to segment")).to_be_visible()
    page.locator("#run").click()
    page.locator("#stop").click()
    playwright.expect(page.locator("#status")).to_contain_text("Stopped", timeout=PATIENCE)
    playwright.expect(page.locator("#run")).to_be_enabled()


def test_two_tabs_do_not_mix(browser, served):
    one, _ = open_page(browser, served)
    two, _ = open_page(browser, served)
    one.get_by_role("button", name="Cats").click()
    two.get_by_role("button", name="Hearts").click()
    wait_for_results(one, 6)
    wait_for_results(two, 6)
    playwright.expect(one.get_by_text("Labelled so far: cat: 1")).to_be_visible()
    playwright.expect(two.get_by_text("Labelled so far: heart: 3")).to_be_visible()
    playwright.expect(one.get_by_text(re.compile(r"scene-1\.png: cat"))).to_be_visible()
    playwright.expect(two.get_by_text(re.compile(r"scene-1\.png: heart"))).to_be_visible()
    one.close()
    two.close()
