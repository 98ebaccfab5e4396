"""The page in a real browser, as a person uses it: example, threshold, download, reload, tabs."""

import json
import re
import zipfile

import numpy as np
import pytest
from browsing import PATIENCE, download, open_page, playwright, scene, wait_for_results
from PIL import Image

pytestmark = pytest.mark.slow


def result_source(page):
    return page.locator("#result img").get_attribute("src")


def set_threshold(page, value):
    number = page.locator("#threshold input[type=number]")
    number.fill(str(value))
    number.press("Tab")


def use_example(page):
    page.get_by_role("button", name="Cats").click()
    wait_for_results(page, 6)


def test_the_example_works_with_one_click_and_no_request_leaves(browser, served):
    page, requests = open_page(browser, served)
    use_example(page)
    page.get_by_role("tab", name="VTP refined").click()
    page.locator("#prior-visual_text_refined img").wait_for()
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
    annotations = json.loads(path.read_text())["annotations"]
    assert all(annotation["image_id"] != 1 for annotation in annotations)
    # A score of exactly 1 passes; it is that of hardly any pixel.
    assert sum(annotation["area"] for annotation in annotations) < 0.0005 * 6 * 128 * 128


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


def test_photographs_are_offered_with_a_model_for_photographs(page):
    button = page.get_by_role("button", name="Cheetahs")
    playwright.expect(button).to_be_hidden()
    page.locator("#model input").click()
    page.get_by_role("option", name=re.compile("CLIP ViT-B")).click()
    playwright.expect(button).to_be_visible()
